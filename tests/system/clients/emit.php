<?php
// An ERP's PHP after the API page «Token de Acesso»: a form posted with file_get_contents, once for each script.
// Only the base URL is another one.
$base = $argv[1];

$form = http_build_query([
    'grant_type' => 'password',
    'username' => 'erp@empresa.com.br',
    'password' => 'a-password-that-must-stay-here',
]);
$context = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => "Content-type: application/x-www-form-urlencoded\r\nAccept: application/json\r\n",
    'content' => $form,
]]);
$answer = json_decode(file_get_contents("$base/api/token", false, $context), true);
$token = $answer['access_token'];
echo "token: {$answer['token_type']} {$answer['expires_in']}\n";

$context = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => "Content-type: application/json\r\nAccept: application/json\r\nAuthorization: bearer $token\r\n",
    'content' => '{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1","natureza":"Devolução"}',
]]);
$body = file_get_contents("$base/api/nfe/envio", false, $context);
echo "{$http_response_header[0]}\n$body\n";
