// Uses the broker as the arguments say; see matrix_test.go.
const fs = require('fs')
const [url, version, username, password, ca, mode, qos, topic] = process.argv.slice(2)
const options = {
  protocolVersion: Number(version), clean: true, reconnectPeriod: 0, username, password,
  clientId: 'js' + process.pid, ca: fs.readFileSync(ca),
}
if (mode === 'will') options.will = { topic, payload: Buffer.from('gone'), qos: Number(qos), retain: false }
const client = require('mqtt').connect(url, options)
client.on('error', (e) => { console.error(String(e)); process.exit(1) })
client.on('connect', () => {
  if (mode === 'will') {
    console.log('ready')
    return // until it is killed
  }
  client.subscribe(topic, { qos: Number(qos) }, (e, granted) => {
    if (e || granted[0].qos !== Number(qos)) { console.error('subscribe', e, granted); process.exit(1) }
    client.publish(topic, 'hello', { qos: Number(qos) })
  })
})
client.on('message', (t, payload, packet) => {
  if (t !== topic || payload.toString() !== 'hello' || packet.qos !== Number(qos)) { console.error('got', t, payload, packet); process.exit(1) }
  console.log('ok')
  setTimeout(() => client.end(), 50) // its answer goes first
})
