*&---------------------------------------------------------------------*
*& Issues one NF-e through the sidecar, and does the right thing about every outcome.
*& ABAP 7.40 or newer. The fields are those that the fake Invoisys reads; take the real ones from Invoisys's
*& documentation. Not compiled by this project's tests.
*&---------------------------------------------------------------------*
REPORT zinvoisys_emit.

PARAMETERS: p_base   TYPE string LOWER CASE DEFAULT 'http://127.0.0.1:8080',
            p_number TYPE n LENGTH 9 OBLIGATORY,
            p_token  TYPE string LOWER CASE. " caller token, where the listener wants one

CLASS lcl_emit DEFINITION FINAL.
  PUBLIC SECTION.
    TYPES:
      ty_series TYPE n LENGTH 3,
      ty_number TYPE n LENGTH 9,
      ty_code   TYPE n LENGTH 8.
    METHODS:
      constructor IMPORTING base TYPE string caller_token TYPE string,
      run IMPORTING number TYPE ty_number RETURNING VALUE(result) TYPE string.
  PRIVATE SECTION.
    CONSTANTS:
      timeout   TYPE i VALUE 240, " seconds; longer than the sidecar's own, or its answer is lost
      pause     TYPE i VALUE 5,   " seconds between two queries
      attempts  TYPE i VALUE 2,   " to send, before contingency
      queries   TYPE i VALUE 6.   " shortened: an ERP asks for at least 5 minutes before it may send again
    TYPES:
      BEGIN OF ty_answer,
        outcome TYPE string, " not-sent, unknown or answered
        status  TYPE i,
        verdict TYPE i,      " SEFAZ's; 0 where there is none
        wait    TYPE i,      " seconds before another attempt makes sense
      END OF ty_answer.
    DATA: base         TYPE string,
          caller_token TYPE string.
    METHODS:
      random_code IMPORTING number TYPE ty_number RETURNING VALUE(code) TYPE ty_code,
      local_time RETURNING VALUE(iso) TYPE string,
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
    me->caller_token = caller_token.
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

  METHOD random_code.
    " Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897).
    DATA(chance) = cl_abap_random_int=>create( seed = cl_abap_random=>seed( ) min = 0 max = 99999999 ).
    DO.
      code = chance->get_next( ).
      IF code CN code(1) AND NOT '01234567890123456' CS code AND CONV i( code ) <> CONV i( number ).
        RETURN.
      ENDIF.
    ENDDO.
  ENDMETHOD.

  METHOD local_time.
    " The user's, with its offset from UTC: what the clock shows, once read as it is and once as UTC.
    DATA: moment TYPE timestamp,
          as_utc TYPE timestamp.
    CONVERT DATE sy-datlo TIME sy-timlo INTO TIME STAMP moment TIME ZONE sy-zonlo.
    CONVERT DATE sy-datlo TIME sy-timlo INTO TIME STAMP as_utc TIME ZONE 'UTC'.
    DATA(minutes) = CONV i( cl_abap_tstmp=>subtract( tstmp1 = as_utc tstmp2 = moment ) ) DIV 60.
    DATA(sign) = COND string( WHEN minutes < 0 THEN `-` ELSE `+` ).
    iso = |{ sy-datlo DATE = ISO }T{ sy-timlo TIME = ISO }{ sign }| &&
          |{ abs( minutes ) DIV 60 WIDTH = 2 ALIGN = RIGHT PAD = '0' }:| &&
          |{ abs( minutes ) MOD 60 WIDTH = 2 ALIGN = RIGHT PAD = '0' }|.
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
    IF caller_token IS NOT INITIAL.
      client->request->set_header_field( name = 'Authorization' value = |Bearer { caller_token }| ).
    ENDIF.
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
    IF retry_after IS NOT INITIAL AND retry_after CO '0123456789'.
      answer-wait = retry_after. " Retry-After, in seconds; a date is not understood
    ENDIF.
    FIND REGEX '"codigoStatusSEFAZ"\s*:\s*"?([0-9]+)' IN text SUBMATCHES DATA(verdict).
    IF sy-subrc = 0.
      answer-verdict = verdict.
    ENDIF.
    IF said IS NOT INITIAL. " X-Invoisys-Outcome
      answer-outcome = said.
      RETURN.
    ENDIF.
    CASE answer-verdict.
      WHEN 103 OR 104 OR 105 OR 106 OR 204 OR 217.
        " Of the batch alone, there already, not there: ask for the document.
      WHEN 0.
        IF answer-status BETWEEN 400 AND 499 AND answer-status <> 429.
          answer-outcome = 'answered'.
        ENDIF.
      WHEN OTHERS.
        answer-outcome = 'answered'.
    ENDCASE.
  ENDMETHOD.

  METHOD issue.
    DO attempts TIMES.
      DATA(answer) = send( method = 'POST' path = '/api/nfe/envio' document = document ).
      IF answer-outcome = 'unknown'.
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
      IF answer-outcome = 'answered' AND answer-verdict <> 0.
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
    DATA(code) = random_code( number ).
    DATA(now) = local_time( ).
    DATA(document) =
      |\{"cnpj":"12345678000195","modelo":"55","serie":1,"numero":{ CONV i( number ) },| &&
      |"codigoAleatorioNF":"{ code }","dataEmissao":"{ now }"\}|.
    DATA(key) = access_key( month = now+2(2) && now+5(2) cnpj = '12345678000195' model = '55' series = '001'
                            number = number code = code ).
    " Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
    result = issue( document = document key = key ).
  ENDMETHOD.
ENDCLASS.

START-OF-SELECTION.
  WRITE / NEW lcl_emit( base = p_base caller_token = p_token )->run( p_number ).
