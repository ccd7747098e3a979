<?php
// PDO: once.
[, , $port, $sslmode, $root] = $argv;
$verified = $sslmode === 'verify-full' ? ";sslrootcert=$root" : '';
$pdo = new PDO("pgsql:host=localhost;port=$port;dbname=app;sslmode=$sslmode$verified", 'postgres');
echo $pdo->query('SELECT 42')->fetchColumn(), "\n";
