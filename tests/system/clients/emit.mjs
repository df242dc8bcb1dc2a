// Node's own fetch, with its defaults.
const base = process.argv[2]
const post = await fetch(`${base}/api/nfe/envio`, {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: '{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1","natureza":"Devolução"}'
})
console.log(post.status)
console.log(await post.text())
const get = await fetch(`${base}/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000`)
console.log(get.status)
console.log(await get.text())
