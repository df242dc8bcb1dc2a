*&---------------------------------------------------------------------*
*& Issues one NF-e through the sidecar, and does the right thing about every outcome.
*& ABAP 7.40 or newer. The fields are those that the fake Invoisys reads; take the real ones from Invoisys's
*& documentation. Not compiled by this project's tests.
*&---------------------------------------------------------------------*
REPORT zinvoisys_emit.

PARAMETERS: p_base   TYPE string LOWER CASE DEFAULT 'http://127.0.0.1:8080',
            p_number TYPE n LENGTH 9 OBLIGATORY.

CLASS lcl_emit DEFINITION FINAL.
  PUBLIC SECTION.
    TYPES:
      ty_series TYPE n LENGTH 3,
      ty_number TYPE n LENGTH 9,
      ty_code   TYPE n LENGTH 8.
    METHODS:
      constructor IMPORTING base TYPE string,
      run IMPORTING number TYPE ty_number RETURNING VALUE(result) TYPE string.
  PRIVATE SECTION.
    CONSTANTS:
      timeout   TYPE i VALUE 240, " seconds; longer than the sidecar's own, or its answer is lost
      pause     TYPE i VALUE 5,   " seconds between two queries
      attempts  TYPE i VALUE 2,   " to send, before contingency
      queries   TYPE i VALUE 6,
      duplicate TYPE i VALUE 204.
    TYPES:
      BEGIN OF ty_answer,
        outcome TYPE string, " not-sent, unknown or answered
        status  TYPE i,
        verdict TYPE i,      " SEFAZ's; 0 where there is none
        wait    TYPE i,      " seconds before another attempt makes sense
      END OF ty_answer.
    DATA base TYPE string.
    METHODS:
      access_key IMPORTING month TYPE string cnpj TYPE string model TYPE string series TYPE ty_series
                           number TYPE ty_number code TYPE ty_code
                 RETURNING VALUE(key) TYPE string,
      send IMPORTING method TYPE string path TYPE string document TYPE string OPTIONAL
           RETURNING VALUE(answer) TYPE ty_answer,
      issue IMPORTING document TYPE string key TYPE string RETURNING VALUE(result) TYPE string,
      settle IMPORTING key TYPE string RETURNING VALUE(result) TYPE string,
      told IMPORTING verdict TYPE i key TYPE string RETURNING VALUE(result) TYPE string.
ENDCLASS.

CLASS lcl_emit IMPLEMENTATION.
  METHOD constructor.
    me->base = base.
  ENDMETHOD.

  METHOD access_key.
    " Letters of a CNPJ count by their place in ASCII, as digits do: 0 is 0, A is 17.
    CONSTANTS signs TYPE string VALUE '0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ'.
    DATA total TYPE i.
    DATA(body) = |35{ month }{ cnpj }{ model }{ series }{ number }1{ code }|. " 1: normal emission
    DO strlen( body ) TIMES.
      DATA(place) = sy-index - 1.
      DATA(offset) = strlen( body ) - sy-index.
      total = total + find( val = signs sub = body+offset(1) ) * ( 2 + place MOD 8 ).
    ENDDO.
    DATA(digit) = ( 11 - total MOD 11 ) MOD 11 MOD 10.
    key = |{ body }{ digit }|.
  ENDMETHOD.

  METHOD send.
    answer = VALUE #( outcome = 'unknown' wait = pause ).
    cl_http_client=>create_by_url(
      EXPORTING url = base && path
      IMPORTING client = DATA(client)
      EXCEPTIONS OTHERS = 1 ).
    IF sy-subrc <> 0.
      answer-outcome = 'not-sent'. " there is no client: nothing was sent, to anybody
      RETURN.
    ENDIF.
    client->propertytype_redirect = if_http_client=>co_disabled.
    client->propertytype_logon_popup = if_http_client=>co_disabled.
    client->request->set_method( method ).
    client->request->set_content_type( 'application/json' ).
    IF document IS NOT INITIAL.
      client->request->set_cdata( document ).
    ENDIF.
    client->send( EXPORTING timeout = timeout EXCEPTIONS OTHERS = 1 ).
    IF sy-subrc = 0.
      client->receive( EXCEPTIONS OTHERS = 1 ).
    ENDIF.
    IF sy-subrc <> 0.
      client->get_last_error( IMPORTING message = DATA(message) ).
      " Refused: the sidecar is not there, and nothing was sent, to anybody. All else may have been sent.
      IF message CS 'CONNECTION_REFUSED' OR message CS 'NIECONN_REFUSED'.
        answer-outcome = 'not-sent'.
      ENDIF.
      client->close( EXCEPTIONS OTHERS = 0 ).
      RETURN.
    ENDIF.
    client->response->get_status( IMPORTING code = answer-status ).
    DATA(text) = client->response->get_cdata( ).
    DATA(said) = client->response->get_header_field( 'x-invoisys-outcome' ).
    DATA(retry_after) = client->response->get_header_field( 'retry-after' ).
    client->close( EXCEPTIONS OTHERS = 0 ).
    IF retry_after IS NOT INITIAL.
      answer-wait = retry_after. " Retry-After, in seconds
    ENDIF.
    FIND REGEX '"codigoStatusSEFAZ"\s*:\s*([0-9]+)' IN text SUBMATCHES DATA(verdict).
    IF sy-subrc = 0.
      answer-verdict = verdict.
    ENDIF.
    IF said IS NOT INITIAL. " X-Invoisys-Outcome
      answer-outcome = said.
    ELSEIF answer-verdict <> 0 OR ( answer-status BETWEEN 400 AND 499 AND answer-status <> 429 ).
      answer-outcome = 'answered'.
    ENDIF.
  ENDMETHOD.

  METHOD issue.
    DO attempts TIMES.
      DATA(answer) = send( method = 'POST' path = '/api/nfe/envio' document = document ).
      IF answer-outcome = 'unknown' OR answer-verdict = duplicate.
        result = settle( key ).
        RETURN.
      ELSEIF answer-verdict <> 0.
        result = told( verdict = answer-verdict key = key ).
        RETURN.
      ELSEIF answer-status BETWEEN 400 AND 499.
        result = |refused { answer-status }|. " the request itself has to change
        RETURN.
      ELSEIF sy-index < attempts.
        WAIT UP TO answer-wait SECONDS.
      ENDIF.
    ENDDO.
    result = 'contingency'. " Invoisys knows nothing of the number: it is still free
  ENDMETHOD.

  METHOD settle.
    " Never sends again what may have been sent: asks for it.
    DO queries TIMES.
      DATA(answer) = send( method = 'GET' path = |/api/nfe/getbychaveSTD/{ key }| ).
      IF answer-verdict <> 0.
        result = told( verdict = answer-verdict key = key ).
        RETURN.
      ELSEIF sy-index < queries.
        WAIT UP TO pause SECONDS.
      ENDIF.
    ENDDO.
    result = |pending { key }|. " go on asking later; the next sale takes the next number
  ENDMETHOD.

  METHOD told.
    result = COND #( WHEN verdict = 100 OR verdict = 150 THEN |issued { key }| ELSE |rejected { verdict }| ).
  ENDMETHOD.

  METHOD run.
    DATA(code) = CONV ty_code( cl_abap_random_int=>create(
      seed = CONV i( sy-uzeit ) min = 0 max = 99999999 )->get_next( ) ).
    DATA(document) =
      |\{"cnpj":"12345678000195","modelo":"55","serie":1,"numero":{ CONV i( number ) },| &&
      |"codigoAleatorioNF":"{ code }","dataEmissao":"{ sy-datum DATE = ISO }T{ sy-uzeit TIME = ISO }-03:00"\}|.
    DATA(key) = access_key( month = |{ sy-datum+2(4) }| cnpj = '12345678000195' model = '55' series = '001'
                            number = number code = code ).
    " Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
    result = issue( document = document key = key ).
  ENDMETHOD.
ENDCLASS.

START-OF-SELECTION.
  WRITE / NEW lcl_emit( p_base )->run( p_number ).
