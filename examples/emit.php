<?php
// Issues one NF-e through the sidecar, and does the right thing about every outcome: php emit.php BASE_URL NUMBER
// The fields are those that the fake Invoisys reads; take the real ones from Invoisys's documentation.
declare(strict_types=1);

const ATTEMPTS = 2; // to send, before contingency
const QUERIES = 6;  // shortened: an ERP asks for at least 5 minutes before it may send again
const AUTHORIZED = [100, 150];
const UNDECIDED = [103, 104, 105, 106, 204, 217]; // of the batch alone, there already, not there: ask for the document

$timeout = (float) (getenv('TIMEOUT') ?: 240); // seconds; longer than the sidecar's own, or its answer is lost
$pause = (float) (getenv('PAUSE') ?: 5);       // seconds between two queries
$callerToken = getenv('CALLER_TOKEN');         // where the listener wants one

function accessKey(string $uf, string $month, string $cnpj, string $model, int $series, int $number, string $code): string
{
    $body = sprintf('%s%s%014s%s%03d%09d1%s', $uf, $month, $cnpj, $model, $series, $number, $code); // 1: normal emission
    $total = 0;
    foreach (str_split(strrev($body)) as $place => $sign) {
        $total += (ord($sign) - 48) * (2 + $place % 8); // letters of a CNPJ count by their place in ASCII, as digits do
    }
    return $body . (11 - $total % 11) % 11 % 10;
}

/** Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897). */
function randomCode(int $number): string
{
    do {
        $code = sprintf('%08d', random_int(0, 99999999));
        $same = $code === str_repeat($code[0], 8);
    } while ($same || str_contains('01234567890123456', $code) || (int) $code === $number);
    return $code;
}

/** @return array{outcome: string, status: int, verdict: int, wait: float} */
function send(string $base, string $method, string $path, ?array $document = null): array
{
    global $timeout, $pause, $callerToken;
    $context = stream_context_create(['http' => [
        'method' => $method,
        'header' => "Content-Type: application/json\r\nConnection: close\r\n"
            . ($callerToken ? "Authorization: Bearer $callerToken\r\n" : ''),
        'content' => $document === null ? '' : json_encode($document),
        'protocol_version' => 1.1,
        'follow_location' => 0,
        'ignore_errors' => true, // an answer of 4xx or 5xx is an answer
        'timeout' => $timeout,
    ]]);
    error_clear_last();
    $stream = @fopen($base . $path, 'r', false, $context);
    if ($stream === false) {
        $refused = str_contains(error_get_last()['message'] ?? '', 'Connection refused');
        // Refused: the sidecar is not there, and nothing was sent, to anybody. All else may have been sent.
        return ['outcome' => $refused ? 'not-sent' : 'unknown', 'status' => 0, 'verdict' => 0, 'wait' => $pause];
    }
    $body = stream_get_contents($stream);
    $head = stream_get_meta_data($stream)['wrapper_data'];
    fclose($stream);
    $status = (int) explode(' ', $head[0])[1];
    $fields = [];
    foreach (array_slice($head, 1) as $line) {
        [$name, $value] = explode(':', $line, 2);
        $fields[strtolower($name)] = trim($value);
    }
    // What broke off is no JSON, and so has no verdict.
    $verdict = (int) (json_decode($body, true)['dadosDoDocumento']['codigoStatusSEFAZ'] ?? 0);
    return [
        'outcome' => $fields['x-invoisys-outcome'] ?? outcomeOf($status, $verdict),
        'status' => $status,
        'verdict' => $verdict,
        'wait' => (float) ($fields['retry-after'] ?? 0) ?: $pause, // seconds; a date is not understood
    ];
}

function outcomeOf(int $status, int $verdict): string
{
    $refused = $status >= 400 && $status < 500 && $status !== 429;
    return !in_array($verdict, UNDECIDED, true) && ($verdict || $refused) ? 'answered' : 'unknown';
}

function issue(string $base, array $document, string $key): string
{
    for ($attempt = 1; $attempt <= ATTEMPTS; $attempt++) {
        $answer = send($base, 'POST', '/api/nfe/envio', $document);
        if ($answer['outcome'] === 'unknown') {
            return settle($base, $key);
        }
        if ($answer['verdict']) {
            return told($answer['verdict'], $key);
        }
        if ($answer['status'] >= 400 && $answer['status'] < 500) {
            return "refused {$answer['status']}"; // the request itself has to change
        }
        if ($attempt < ATTEMPTS) {
            usleep((int) ($answer['wait'] * 1e6));
        }
    }
    return 'contingency'; // Invoisys knows nothing of the number: it is still free
}

/** Never sends again what may have been sent: asks for it. */
function settle(string $base, string $key): string
{
    global $pause;
    for ($query = 1; $query <= QUERIES; $query++) {
        $answer = send($base, 'GET', "/api/nfe/getbychaveSTD/$key");
        if ($answer['outcome'] === 'answered' && $answer['verdict']) {
            return told($answer['verdict'], $key);
        }
        if ($query < QUERIES) {
            usleep((int) ($pause * 1e6));
        }
    }
    return "pending $key"; // go on asking later; the next sale takes the next number
}

function told(int $verdict, string $key): string
{
    return in_array($verdict, AUTHORIZED, true) ? "issued $key" : "rejected $verdict";
}

[, $base, $number] = $argv;
if (!preg_match('/^[0-9]{1,9}$/', $number)) {
    throw new InvalidArgumentException('usage: emit.php BASE_URL NUMBER');
}
$number = (int) $number;
$code = randomCode($number);
$now = date('c'); // local time, with its offset, by date.timezone of php.ini: without that it is UTC
$document = [
    'cnpj' => '12345678000195',
    'modelo' => '55',
    'serie' => 1,
    'numero' => $number,
    'codigoAleatorioNF' => $code,
    'dataEmissao' => $now,
];
$month = substr($now, 2, 2) . substr($now, 5, 2);
$key = accessKey('35', $month, '12345678000195', '55', 1, $number, $code);
// Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
echo issue($base, $document, $key), "\n";
