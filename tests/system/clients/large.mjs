// 30 MiB up and down with Node's own fetch, all on the connection that it keeps.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'

const [base, file, times] = process.argv.slice(2)
const up = await fetch(`${base}/api/nfe/envio`, { method: 'POST', body: await readFile(file) })
await up.text()
console.log(up.status)
const down = await fetch(`${base}/v1/nfe-entrada/eventos-nsui/12345678000195/0`)
console.log(down.status)
console.log(createHash('sha256').update(Buffer.from(await down.arrayBuffer())).digest('hex'))
for (let time = 0; time < Number(times); time++) {
  const small = await fetch(`${base}/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000`)
  await small.text()
  console.log(small.status)
}
