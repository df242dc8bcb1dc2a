// Issues one NF-e through the sidecar, and does the right thing about every outcome: Emit.exe BASE_URL NUMBER
// Delphi 10.4 or newer, with Indy, which comes along. The fields are those that the fake Invoisys reads; take the real
// ones from Invoisys's documentation. Not compiled by this project's tests.
program Emit;

{$APPTYPE CONSOLE}

uses
  System.SysUtils, System.Classes, System.DateUtils, System.JSON, IdHTTP, IdStack, IdException;

const
  Timeout = 240000; // ms; longer than the sidecar's own, or its answer is lost
  Pause = 5;        // seconds between two queries
  Attempts = 2;     // to send, before contingency
  Queries = 6;      // shortened: an ERP asks for at least 5 minutes before it may send again
  NoVerdict = 0;
  // Of the batch alone, there already, not there: ask for the document.
  Undecided: array [0 .. 5] of Integer = (103, 104, 105, 106, 204, 217);

type
  TOutcome = (NotSent, Unknown, Answered);

  TAnswer = record
    Outcome: TOutcome;
    Status: Integer;
    Verdict: Integer; // SEFAZ's, if any
    Wait: Integer;    // seconds before another attempt makes sense
  end;

var
  Base: string;
  CallerToken: string; // where the listener wants one

function AccessKey(const UF, Month, CNPJ, Model: string; Series, Number: Integer; const Code: string): string;
var
  Place, Total: Integer;
begin
  Result := UF + Month + CNPJ + Model + Format('%.3d%.9d', [Series, Number]) + '1' + Code; // 1: normal emission
  Total := 0;
  // Letters of a CNPJ count by their place in ASCII, as digits do.
  for Place := 0 to Length(Result) - 1 do
    Total := Total + (Ord(Result[Length(Result) - Place]) - 48) * (2 + Place mod 8);
  Result := Result + IntToStr((11 - Total mod 11) mod 11 mod 10);
end;

// Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897).
function RandomCode(Number: Integer): string;
var
  Drawn: Integer;
begin
  repeat
    Drawn := Random(100000000);
    Result := Format('%.8d', [Drawn]);
  until (Result <> StringOfChar(Result[1], 8)) and (Pos(Result, '01234567890123456') = 0) and (Drawn <> Number);
end;

function VerdictOf(const Text: string): Integer;
var
  Value: TJSONValue;
begin
  Result := NoVerdict;
  Value := TJSONObject.ParseJSONValue(Text); // nil for what is no JSON, such as half an answer
  try
    if Value is TJSONObject then
      TJSONObject(Value).TryGetValue<Integer>('dadosDoDocumento.codigoStatusSEFAZ', Result);
  finally
    Value.Free;
  end;
end;

function IsUndecided(Verdict: Integer): Boolean;
var
  Code: Integer;
begin
  Result := False;
  for Code in Undecided do
    Result := Result or (Verdict = Code);
end;

function Made(Outcome: TOutcome): TAnswer;
begin
  Result := Default(TAnswer);
  Result.Outcome := Outcome;
  Result.Wait := Pause;
end;

function Send(const Method, Path: string; const Document: string = ''): TAnswer;
var
  Client: TIdHTTP;
  Body: TStringStream;
  Text, Said: string;
  Refused: Boolean;
begin
  Client := TIdHTTP.Create(nil); // a new connection each time: none that went stale
  Body := TStringStream.Create(Document, TEncoding.UTF8);
  try
    Client.ConnectTimeout := 5000;
    Client.ReadTimeout := Timeout;
    Client.HandleRedirects := False;
    Client.Request.Connection := 'close';
    Client.Request.ContentType := 'application/json';
    if CallerToken <> '' then
      Client.Request.CustomHeaders.Values['Authorization'] := 'Bearer ' + CallerToken;
    Client.HTTPOptions := Client.HTTPOptions + [hoNoProtocolErrorException, hoWantProtocolErrorContent];
    try
      if Method = 'POST' then
        Text := Client.Post(Base + Path, Body)
      else
        Text := Client.Get(Base + Path);
    except
      on Error: EIdSocketError do
        // Refused (10061): the sidecar is not there, and nothing was sent, to anybody. All else may have been sent.
        if Error.LastError = 10061 then Exit(Made(NotSent)) else Exit(Made(Unknown));
      on Exception do
        Exit(Made(Unknown)); // no answer, or not all of it
    end;
    Result := Made(Unknown);
    Result.Status := Client.ResponseCode;
    Result.Verdict := VerdictOf(Text);
    Result.Wait := StrToIntDef(Client.Response.RawHeaders.Values['Retry-After'], Pause);
    Said := Client.Response.RawHeaders.Values['X-Invoisys-Outcome'];
    Refused := (Result.Status >= 400) and (Result.Status < 500) and (Result.Status <> 429);
    if Said = 'not-sent' then
      Result.Outcome := NotSent
    else if (Said = '') and not IsUndecided(Result.Verdict) and ((Result.Verdict <> NoVerdict) or Refused) then
      Result.Outcome := Answered;
  finally
    Body.Free;
    Client.Free;
  end;
end;

function Told(Verdict: Integer; const Key: string): string;
begin
  if (Verdict = 100) or (Verdict = 150) then
    Result := 'issued ' + Key
  else
    Result := 'rejected ' + IntToStr(Verdict);
end;

// Never sends again what may have been sent: asks for it.
function Settle(const Key: string): string;
var
  Query: Integer;
  Answer: TAnswer;
begin
  for Query := 1 to Queries do
  begin
    Answer := Send('GET', '/api/nfe/getbychaveSTD/' + Key);
    if (Answer.Outcome = Answered) and (Answer.Verdict <> NoVerdict) then Exit(Told(Answer.Verdict, Key));
    if Query < Queries then Sleep(Pause * 1000);
  end;
  Result := 'pending ' + Key; // go on asking later; the next sale takes the next number
end;

function Issue(const Document, Key: string): string;
var
  Attempt: Integer;
  Answer: TAnswer;
begin
  for Attempt := 1 to Attempts do
  begin
    Answer := Send('POST', '/api/nfe/envio', Document);
    if Answer.Outcome = Unknown then Exit(Settle(Key));
    if Answer.Verdict <> NoVerdict then Exit(Told(Answer.Verdict, Key));
    if (Answer.Status >= 400) and (Answer.Status < 500) then
      Exit('refused ' + IntToStr(Answer.Status)); // the request itself has to change
    if Attempt < Attempts then Sleep(Answer.Wait * 1000);
  end;
  Result := 'contingency'; // Invoisys knows nothing of the number: it is still free
end;

var
  Number: Integer;
  Today, Code, Document, Key: string;
begin
  Randomize;
  Base := ParamStr(1);
  CallerToken := GetEnvironmentVariable('CALLER_TOKEN');
  Number := StrToInt(ParamStr(2));
  Code := RandomCode(Number);
  Today := DateToISO8601(Now, False); // local time, with its offset
  Document := Format('{"cnpj":"12345678000195","modelo":"55","serie":1,"numero":%d,' +
    '"codigoAleatorioNF":"%s","dataEmissao":"%s"}', [Number, Code, Today]);
  Key := AccessKey('35', Copy(Today, 3, 2) + Copy(Today, 6, 2), '12345678000195', '55', 1, Number, Code);
  // Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
  Writeln(Issue(Document, Key));
end.
