<?php
// 30 MiB up and down, with file_get_contents; it makes a connection for each request.
[, $base, $file, $times] = $argv;

function status(array $head): string
{
    return explode(' ', $head[0])[1];
}

$context = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => "Content-type: application/json\r\n",
    'content' => file_get_contents($file),
]]);
file_get_contents("$base/api/nfe/envio", false, $context);
echo status($http_response_header) . "\n";

$down = file_get_contents("$base/v1/nfe-entrada/eventos-nsui/12345678000195/0");
echo status($http_response_header) . "\n" . hash('sha256', $down) . "\n";

for ($time = 0; $time < $times; $time++) {
    // Both versions: the older one ends an answer of unknown length with the connection.
    $context = stream_context_create(['http' => ['protocol_version' => $time % 2 ? 1.0 : 1.1]]);
    $path = '/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000';
    assert(file_get_contents($base . $path, false, $context) === 'null');
    echo status($http_response_header) . "\n";
}
