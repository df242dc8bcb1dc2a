// Node's http-proxy with a fixed header.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'

const { createProxyServer } = createRequire(`${process.env.NODE_MODULES}/`)('http-proxy')
const upstream = new URL(process.env.UPSTREAM)
const secure = upstream.protocol === 'https:'
const ca = readFileSync(process.env.CA)
const agent = secure ? new https.Agent({ keepAlive: true, ca }) : new http.Agent({ keepAlive: true })
const proxy = createProxyServer({
  target: upstream.href,
  agent,
  changeOrigin: true,
  headers: { authorization: `Bearer ${process.env.TOKEN}` }
})
proxy.on('error', (error, request, response) => {
  if (!response.headersSent) response.writeHead(502)
  response.end()
})
const [host, port] = process.env.LISTEN.split(':')
const server = http.createServer((request, response) => proxy.web(request, response))
server.keepAliveTimeout = 75_000
server.listen(Number(port), host)
