// Issues one NF-e through the sidecar, and does the right thing about every outcome: node emit.mjs BASE_URL NUMBER
// The fields are those that the fake Invoisys reads; take the real ones from Invoisys's documentation.
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

const TIMEOUT = Number(process.env.TIMEOUT ?? 240) // seconds; longer than the sidecar's own, or its answer is lost
const PAUSE = Number(process.env.PAUSE ?? 5) // seconds between two queries
const CALLER_TOKEN = process.env.CALLER_TOKEN // where the listener wants one
const ATTEMPTS = 2 // to send, before contingency
const QUERIES = 6 // shortened: an ERP asks for at least 5 minutes before it may send again
const AUTHORIZED = [100, 150]
const UNDECIDED = [103, 104, 105, 106, 204, 217] // of the batch alone, there already, not there: ask for the document

function accessKey (uf, month, cnpj, model, series, number, code) {
  const body = uf + month + cnpj.padStart(14, '0') + model + String(series).padStart(3, '0') +
    String(number).padStart(9, '0') + '1' + code // 1: normal emission
  // Letters of a CNPJ count by their place in ASCII, as digits do.
  const total = [...body].reverse().reduce((sum, sign, place) => sum + (sign.charCodeAt(0) - 48) * (2 + place % 8), 0)
  return body + (11 - total % 11) % 11 % 10
}

// Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897).
function randomCode (number) {
  for (;;) {
    const code = String(randomInt(10 ** 8)).padStart(8, '0')
    if (new Set(code).size > 1 && !'01234567890123456'.includes(code) && Number(code) !== number) return code
  }
}

function localTime (date) { // with its offset from UTC
  const minutes = -date.getTimezoneOffset()
  const twoDigits = part => String(Math.trunc(Math.abs(part))).padStart(2, '0')
  const offset = `${minutes < 0 ? '-' : '+'}${twoDigits(minutes / 60)}:${twoDigits(minutes % 60)}`
  return new Date(date.getTime() + minutes * 60000).toISOString().slice(0, 19) + offset
}

// outcome is not-sent, unknown or answered; verdict is SEFAZ's, if any; wait is when another attempt makes sense.
async function send (base, method, path, document) {
  const headers = { 'Content-Type': 'application/json' }
  if (CALLER_TOKEN) headers.Authorization = `Bearer ${CALLER_TOKEN}`
  let response, text
  try {
    response = await fetch(base + path, {
      method,
      headers,
      body: document && JSON.stringify(document),
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT * 1000)
    })
    text = await response.text()
  } catch (error) {
    // Refused: the sidecar is not there, and nothing was sent, to anybody. All else may have been sent.
    const refused = ['ECONNREFUSED', 'ENOTFOUND'].includes(error.cause?.code)
    return { outcome: refused ? 'not-sent' : 'unknown', status: 0, verdict: 0, wait: PAUSE }
  }
  const status = response.status
  const verdict = verdictOf(text)
  return {
    outcome: response.headers.get('X-Invoisys-Outcome') ?? outcomeOf(status, verdict),
    status,
    verdict,
    wait: Number(response.headers.get('Retry-After')) || PAUSE // seconds; a date is not understood
  }
}

function verdictOf (text) {
  try {
    return Number(JSON.parse(text).dadosDoDocumento.codigoStatusSEFAZ) || 0
  } catch {
    return 0
  }
}

function outcomeOf (status, verdict) {
  const refused = status >= 400 && status < 500 && status !== 429
  return !UNDECIDED.includes(verdict) && (verdict || refused) ? 'answered' : 'unknown'
}

async function issue (base, document, key) {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const answer = await send(base, 'POST', '/api/nfe/envio', document)
    if (answer.outcome === 'unknown') return settle(base, key)
    if (answer.verdict) return told(answer.verdict, key)
    if (answer.status >= 400 && answer.status < 500) return `refused ${answer.status}` // the request has to change
    if (attempt < ATTEMPTS) await sleep(answer.wait * 1000)
  }
  return 'contingency' // Invoisys knows nothing of the number: it is still free
}

// Never sends again what may have been sent: asks for it.
async function settle (base, key) {
  for (let query = 1; query <= QUERIES; query++) {
    const answer = await send(base, 'GET', `/api/nfe/getbychaveSTD/${key}`)
    if (answer.outcome === 'answered' && answer.verdict) return told(answer.verdict, key)
    if (query < QUERIES) await sleep(PAUSE * 1000)
  }
  return `pending ${key}` // go on asking later; the next sale takes the next number
}

function told (verdict, key) {
  return AUTHORIZED.includes(verdict) ? `issued ${key}` : `rejected ${verdict}`
}

const [base, asked] = process.argv.slice(2)
if (!/^[0-9]{1,9}$/.test(asked)) throw new Error('usage: emit.mjs BASE_URL NUMBER')
const number = Number(asked)
const code = randomCode(number)
const now = localTime(new Date())
const document = {
  cnpj: '12345678000195',
  modelo: '55',
  serie: 1,
  numero: number,
  codigoAleatorioNF: code,
  dataEmissao: now
}
const month = now.slice(2, 4) + now.slice(5, 7)
const key = accessKey('35', month, '12345678000195', '55', 1, number, code)
// Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
console.log(await issue(base, document, key))
