"""Uses the broker as the arguments say; see matrix_test.go."""
import sys

import paho.mqtt.client as mqtt

host, port, transport, version, username, password, ca, mode, qos, topic = sys.argv[1:]
qos = int(qos)
versions = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}
name = "python" + port + mode
kind = {"client_id": name, "protocol": versions[version], "transport": "websockets" if transport in ("ws", "wss") else "tcp"}
if hasattr(mqtt, "CallbackAPIVersion"):  # 2.0 and later
    kind["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
client = mqtt.Client(**kind)
client.username_pw_set(username, password)
if transport in ("ws", "wss"):
    client.ws_set_options(path="/mqtt")
if transport in ("tls", "wss"):
    client.tls_set(ca)
if mode == "will":
    client.will_set(topic, "gone", qos)


def on_connect(c, _data, _flags, code, *_):
    if code != 0:
        sys.exit("refused: %s" % code)
    if mode == "will":
        print("ready", flush=True)
    else:
        c.subscribe(topic, qos)


def on_message(c, _data, message):
    if message.topic != topic or message.payload != b"hello" or message.qos != qos:
        sys.exit("got %s %s QoS %d" % (message.topic, message.payload, message.qos))
    print("ok", flush=True)
    c.disconnect()


client.on_connect = on_connect
client.on_subscribe = lambda c, *_: c.publish(topic, "hello", qos)
client.on_message = on_message
client.connect(host, int(port), 60)
client.loop_forever()
