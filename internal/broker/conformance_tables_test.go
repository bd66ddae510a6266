package broker_test

import (
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

const (
	noUserProperties = "this broker sends no user properties of its own"
	noReasonStrings  = "this broker sends no reason string in this packet"
	supportsAll      = "binds servers that lack a feature which this one has"
	noAuth           = "enhanced authentication is not supported, and refused (MQTT-4.12.0-1)"
)

var conformance5 = map[string]conformance{
	"MQTT-1.5.4-1": checked(badUTF8), "MQTT-1.5.4-2": checked(nulCharacter), "MQTT-1.5.4-3": checked(byteOrderMarkIsKept),
	"MQTT-1.5.5-1": checked(varintsAreMinimal), "MQTT-1.5.7-1": checked(badUTF8), "MQTT-2.1.3-1": checked(reservedFlags),
	"MQTT-2.2.1-2": checked(qos0HasNoID), "MQTT-2.2.1-3": checked(zeroPacketID), "MQTT-2.2.1-4": checked(ownIDs),
	"MQTT-2.2.1-5": checked(answersRepeatIDs), "MQTT-2.2.1-6": checked(answersRepeatIDs), "MQTT-2.2.2-1": checked(emptyPropertiesHaveALength),
	"MQTT-3.1.0-1": checked(malformedConnects), "MQTT-3.1.0-2": checked(secondConnect), "MQTT-3.1.2-1": checked(notMQTT), "MQTT-3.1.2-2": checked(unknownVersion),
	"MQTT-3.1.2-3": checked(reservedConnectFlag), "MQTT-3.1.2-4": checked(sessions), "MQTT-3.1.2-5": checked(sessions), "MQTT-3.1.2-6": checked(sessions),
	"MQTT-3.1.2-7": checked(willsAreSent), "MQTT-3.1.2-8": checked(willsAreSent), "MQTT-3.1.2-9": checked(willFlags), "MQTT-3.1.2-10": checked(willsAreSent),
	"MQTT-3.1.2-11": checked(willFlags), "MQTT-3.1.2-12": checked(willFlags), "MQTT-3.1.2-13": checked(willFlags), "MQTT-3.1.2-14": checked(willsAreSent),
	"MQTT-3.1.2-15": checked(willsAreSent), "MQTT-3.1.2-16": checked(credentialsFlags), "MQTT-3.1.2-17": checked(credentialsFlags),
	"MQTT-3.1.2-18": checked(credentialsFlags), "MQTT-3.1.2-19": checked(credentialsFlags), "MQTT-3.1.2-22": checked(keepAlive),
	"MQTT-3.1.2-23": checked(sessions), "MQTT-3.1.2-24": checked(maximumPacketSize), "MQTT-3.1.2-25": checked(maximumPacketSize),
	"MQTT-3.1.2-26": checked(topicAliases), "MQTT-3.1.2-27": checked(topicAliases), "MQTT-3.1.2-28": checked(noResponseInformation),
	"MQTT-3.1.2-29": checked(noProblemInformation),
	"MQTT-3.1.3-1":  checked(payloadOrder), "MQTT-3.1.3-2": checked(sessions), "MQTT-3.1.3-3": checked(payloadOrder), "MQTT-3.1.3-4": checked(badUTF8),
	"MQTT-3.1.3-5": checked(clientIDs), "MQTT-3.1.3-6": checked(clientIDs), "MQTT-3.1.3-7": checked(assignedIDs), "MQTT-3.1.3-8": checked(refusedID),
	"MQTT-3.1.3-9": checked(willDelay), "MQTT-3.1.3-10": checked(willKeepsUserProperties), "MQTT-3.1.3-11": checked(badUTF8), "MQTT-3.1.3-12": checked(badUTF8),
	"MQTT-3.1.4-1": checked(malformedConnects), "MQTT-3.1.4-2": checked(refusedLogin), "MQTT-3.1.4-3": checked(takeover), "MQTT-3.1.4-4": checked(sessions),
	"MQTT-3.1.4-5": checked(connackFirst), "MQTT-3.1.4-6": checked(refusedLogin), "MQTT-3.2.0-1": checked(connackFirst), "MQTT-3.2.0-2": checked(connackFirst),
	"MQTT-3.2.2-1": checked(connackFirst), "MQTT-3.2.2-2": checked(sessions), "MQTT-3.2.2-3": checked(sessions), "MQTT-3.2.2-6": checked(refusalsHaveNoSession),
	"MQTT-3.2.2-7": checked(refusedLogin), "MQTT-3.2.2-8": checked(refusedLogin), "MQTT-3.2.2-9": without(supportsAll), "MQTT-3.2.2-10": without(supportsAll),
	"MQTT-3.2.2-12": without(supportsAll), "MQTT-3.2.2-13": without(supportsAll), "MQTT-3.2.2-16": checked(assignedIDs), "MQTT-3.2.2-19": checked(reasonsFit),
	"MQTT-3.2.2-20": without(noUserProperties), "MQTT-3.2.2-22": checked(clientKeepAliveHolds),
	"MQTT-3.3.1-1": checked(dupOfRedelivery), "MQTT-3.3.1-2": checked(dupIsNotPassedOn), "MQTT-3.3.1-3": checked(dupIsNotPassedOn), "MQTT-3.3.1-4": checked(qos3),
	"MQTT-3.3.1-5": checked(retained), "MQTT-3.3.1-6": checked(retained), "MQTT-3.3.1-7": checked(retained), "MQTT-3.3.1-8": checked(retained),
	"MQTT-3.3.1-9": checked(retainHandling), "MQTT-3.3.1-10": checked(retainHandling), "MQTT-3.3.1-11": checked(retainHandling),
	"MQTT-3.3.1-12": checked(retainAsPublished), "MQTT-3.3.1-13": checked(retainAsPublished), "MQTT-3.3.2-1": checked(badUTF8),
	"MQTT-3.3.2-2": checked(wildcardsInTopics), "MQTT-3.3.2-3": checked(topicsMatch), "MQTT-3.3.2-4": checked(passedOn("\x01\x01")),
	"MQTT-3.3.2-5": checked(messageExpiry), "MQTT-3.3.2-6": checked(messageExpiry), "MQTT-3.3.2-7": checked(topicAliases), "MQTT-3.3.2-8": checked(topicAliasesOfClients),
	"MQTT-3.3.2-9": checked(topicAliasesOfClients), "MQTT-3.3.2-11": checked(topicAliases), "MQTT-3.3.2-12": checked(topicAliasesOfClients), "MQTT-3.3.2-13": checked(badUTF8),
	"MQTT-3.3.2-14": checked(responseTopic), "MQTT-3.3.2-15": checked(passedOn("\x08\x00\x03r/t")), "MQTT-3.3.2-16": checked(passedOn("\x09\x00\x02\x00\xff")),
	"MQTT-3.3.2-17": checked(passedOn(userProperties)), "MQTT-3.3.2-18": checked(passedOn(userProperties)), "MQTT-3.3.2-19": checked(badUTF8),
	"MQTT-3.3.2-20": checked(passedOn("\x03\x00\x04json")), "MQTT-3.3.4-1": checked(answersRepeatIDs), "MQTT-3.3.4-2": checked(overlapping),
	"MQTT-3.3.4-3": checked(subscriptionIDs), "MQTT-3.3.4-4": checked(subscriptionIDs),
	"MQTT-3.3.4-5": without("this broker sends a single copy (MQTT-3.3.4-4)"), "MQTT-3.3.4-6": checked(subscriptionIDs), "MQTT-3.3.4-7": checked(receiveMaximumOfClients),
	"MQTT-3.3.4-9": checked(receiveMaximum), "MQTT-3.3.4-10": checked(receiveMaximum),
	"MQTT-3.4.2-1": checked(pubackCodes), "MQTT-3.4.2-2": checked(reasonsFit), "MQTT-3.4.2-3": without(noUserProperties),
	"MQTT-3.5.2-1": checked(pubrecCodes), "MQTT-3.5.2-2": checked(reasonsFit), "MQTT-3.5.2-3": without(noUserProperties),
	"MQTT-3.6.1-1": checked(wrongFlagsOf(wire.PUBREL)), "MQTT-3.6.2-1": checked(pubrelCodes), "MQTT-3.6.2-2": without(noReasonStrings), "MQTT-3.6.2-3": without(noUserProperties),
	"MQTT-3.7.2-1": checked(pubcompCodes), "MQTT-3.7.2-2": checked(reasonsFit), "MQTT-3.7.2-3": without(noUserProperties),
	"MQTT-3.8.1-1": checked(wrongFlagsOf(wire.SUBSCRIBE)), "MQTT-3.8.3-1": checked(badUTF8), "MQTT-3.8.3-2": checked(noFilters), "MQTT-3.8.3-3": checked(noLocal),
	"MQTT-3.8.3-4": checked(noLocalShared), "MQTT-3.8.3-5": checked(reservedSubscriptionBits), "MQTT-3.8.4-1": checked(answersRepeatIDs),
	"MQTT-3.8.4-2": checked(answersRepeatIDs), "MQTT-3.8.4-3": checked(subscriptionsAreReplaced), "MQTT-3.8.4-4": checked(subscriptionsAreReplaced),
	"MQTT-3.8.4-5": checked(manyFilters), "MQTT-3.8.4-6": checked(manyFilters), "MQTT-3.8.4-7": checked(manyFilters), "MQTT-3.8.4-8": checked(deliveredQoS),
	"MQTT-3.9.2-1": checked(reasonsFit), "MQTT-3.9.2-2": without(noUserProperties), "MQTT-3.9.3-1": checked(manyFilters), "MQTT-3.9.3-2": checked(manyFilters),
	"MQTT-3.10.1-1": checked(wrongFlagsOf(wire.UNSUBSCRIBE)), "MQTT-3.10.3-1": checked(badUTF8), "MQTT-3.10.3-2": checked(noFilters),
	"MQTT-3.10.4-1": checked(unsubscribing), "MQTT-3.10.4-2": checked(unsubscribing), "MQTT-3.10.4-3": checked(startedDeliveriesAreFinished),
	"MQTT-3.10.4-4": checked(answersRepeatIDs), "MQTT-3.10.4-5": checked(answersRepeatIDs), "MQTT-3.10.4-6": checked(manyFilters),
	"MQTT-3.11.2-1": checked(reasonsFit), "MQTT-3.11.2-2": without(noUserProperties), "MQTT-3.11.3-1": checked(manyFilters), "MQTT-3.11.3-2": checked(manyFilters),
	"MQTT-3.12.4-1": checked(ping), "MQTT-3.14.0-1": checked(noDisconnectBeforeConnack), "MQTT-3.14.1-1": checked(reservedFlags),
	"MQTT-3.14.2-1": checked(disconnectCodes), "MQTT-3.14.2-2": checked(disconnectCodes), "MQTT-3.14.2-3": checked(reasonsFit), "MQTT-3.14.2-4": without(noUserProperties),
	"MQTT-3.14.4-1": checked(afterDisconnect), "MQTT-3.14.4-2": checked(afterDisconnect), "MQTT-3.14.4-3": checked(willsAreDropped),
	"MQTT-3.15.1-1": checked(reservedFlags), "MQTT-3.15.2-1": without(noAuth), "MQTT-3.15.2-2": without(noAuth), "MQTT-3.15.2-3": without(noAuth),
	"MQTT-4.1.0-1": checked(sessionIsKeptWhileConnected), "MQTT-4.1.0-2": checked(sessionExpires), "MQTT-4.2.0-1": checked(overTCP),
	"MQTT-4.3.1-1": checked(qos0HasNoID), "MQTT-4.3.2-1": checked(ownIDs), "MQTT-4.3.2-2": checked(ownIDs), "MQTT-4.3.2-3": checked(unacknowledgedUntilAnswered),
	"MQTT-4.3.2-4": checked(answersRepeatIDs), "MQTT-4.3.2-5": checked(qos1IDsAreFreeAgain), "MQTT-4.3.3-1": checked(ownIDs), "MQTT-4.3.3-2": checked(ownIDs),
	"MQTT-4.3.3-3": checked(dupOfRedelivery), "MQTT-4.3.3-4": checked(ownIDs), "MQTT-4.3.3-5": checked(dupOfRedelivery), "MQTT-4.3.3-6": checked(dupOfRedelivery),
	"MQTT-4.3.3-7": checked(sentMessagesDoNotExpire), "MQTT-4.3.3-8": checked(answersRepeatIDs), "MQTT-4.3.3-9": checked(refusedQoS2IsNew),
	"MQTT-4.3.3-10": checked(qos2FromClients), "MQTT-4.3.3-11": checked(answersRepeatIDs), "MQTT-4.3.3-12": checked(qos2FromClients),
	"MQTT-4.3.3-13": checked(sentMessagesDoNotExpire), "MQTT-4.4.0-1": checked(dupOfRedelivery), "MQTT-4.4.0-2": checked(errorsAcknowledge),
	"MQTT-4.5.0-1": checked(everySessionGetsIt), "MQTT-4.6.0-5": checked(ordered), "MQTT-4.6.0-6": checked(ordered), "MQTT-4.7.0-1": checked(wildcardsInTopics),
	"MQTT-4.7.1-1": checked(badFilters), "MQTT-4.7.1-2": checked(badFilters), "MQTT-4.7.2-1": checked(systemTopics), "MQTT-4.7.3-1": checked(emptyNames),
	"MQTT-4.7.3-2": checked(nulCharacter), "MQTT-4.7.3-3": checked(longNames), "MQTT-4.7.3-4": checked(notNormalised), "MQTT-4.8.2-1": checked(sharedNames),
	"MQTT-4.8.2-2": checked(sharedNames), "MQTT-4.8.2-3": checked(sharedQoS), "MQTT-4.8.2-4": checked(sharedQoS2StaysWithItsClient),
	"MQTT-4.8.2-5": checked(sharedQoS2StaysWithItsClient), "MQTT-4.8.2-6": checked(sharedErrorsAreNotTriedElsewhere), "MQTT-4.9.0-1": checked(receiveMaximum),
	"MQTT-4.9.0-2": checked(receiveMaximum), "MQTT-4.9.0-3": checked(receiveMaximum), "MQTT-4.12.0-1": checked(authRefused), "MQTT-4.12.0-2": without(noAuth),
	"MQTT-4.12.0-4": checked(authRefused), "MQTT-4.12.0-5": without(noAuth), "MQTT-4.12.0-6": checked(authRefused), "MQTT-4.12.0-7": checked(authRefused),
	"MQTT-4.12.1-2": without(noAuth), "MQTT-4.13.1-1": checked(violationsEndTheConnection), "MQTT-4.13.2-1": checked(violationsEndTheConnection),
	"MQTT-6.0.0-1": checked(webSocketBinary), "MQTT-6.0.0-2": checked(webSocketFrames), "MQTT-6.0.0-3": checked(webSocketProtocol), "MQTT-6.0.0-4": checked(webSocketProtocol),
}

var conformance311 = map[string]conformance{
	"MQTT-1.5.3-1": checked(badUTF8), "MQTT-1.5.3-2": checked(nulCharacter), "MQTT-1.5.3-3": checked(byteOrderMarkIsKept), "MQTT-2.2.2-1": checked(reservedFlags),
	"MQTT-2.2.2-2": checked(reservedFlags), "MQTT-2.3.1-1": checked(zeroPacketID), "MQTT-2.3.1-4": checked(ownIDs), "MQTT-2.3.1-5": checked(qos0HasNoID),
	"MQTT-2.3.1-6": checked(answersRepeatIDs), "MQTT-2.3.1-7": checked(answersRepeatIDs), "MQTT-3.1.0-1": checked(malformedConnects), "MQTT-3.1.0-2": checked(secondConnect),
	"MQTT-3.1.2-1": checked(notMQTT), "MQTT-3.1.2-2": checked(unknownVersion), "MQTT-3.1.2-3": checked(reservedConnectFlag), "MQTT-3.1.2-4": checked(sessions),
	"MQTT-3.1.2-5": checked(sessions), "MQTT-3.1.2-6": checked(cleanSessionsEnd), "MQTT-3.1.2-7": checked(retainedOutlivesSessions), "MQTT-3.1.2-8": checked(willsAreSent),
	"MQTT-3.1.2-9": checked(willFlags), "MQTT-3.1.2-10": checked(willsAreSent), "MQTT-3.1.2-11": checked(willFlags), "MQTT-3.1.2-12": checked(willsAreDropped),
	"MQTT-3.1.2-13": checked(willFlags), "MQTT-3.1.2-14": checked(willFlags), "MQTT-3.1.2-15": checked(willFlags), "MQTT-3.1.2-16": checked(willsAreSent),
	"MQTT-3.1.2-17": checked(willsAreSent), "MQTT-3.1.2-18": checked(credentialsFlags), "MQTT-3.1.2-19": checked(credentialsFlags),
	"MQTT-3.1.2-20": checked(credentialsFlags), "MQTT-3.1.2-21": checked(credentialsFlags), "MQTT-3.1.2-22": checked(credentialsFlags), "MQTT-3.1.2-24": checked(keepAlive),
	"MQTT-3.1.3-1": checked(payloadOrder), "MQTT-3.1.3-2": checked(sessions), "MQTT-3.1.3-3": checked(payloadOrder), "MQTT-3.1.3-4": checked(badUTF8),
	"MQTT-3.1.3-5": checked(clientIDs), "MQTT-3.1.3-6": checked(clientIDs), "MQTT-3.1.3-8": checked(emptyIDWithoutCleanSession), "MQTT-3.1.3-9": checked(refusedID),
	"MQTT-3.1.3-10": checked(badUTF8), "MQTT-3.1.3-11": checked(badUTF8), "MQTT-3.1.4-1": checked(malformedConnects), "MQTT-3.1.4-2": checked(takeover),
	"MQTT-3.1.4-3": checked(sessions), "MQTT-3.1.4-4": checked(connackFirst), "MQTT-3.1.4-5": checked(refusedLogin), "MQTT-3.2.0-1": checked(connackFirst),
	"MQTT-3.2.2-1": checked(sessions), "MQTT-3.2.2-2": checked(sessions), "MQTT-3.2.2-3": checked(sessions), "MQTT-3.2.2-4": checked(refusalsHaveNoSession),
	"MQTT-3.2.2-5": checked(refusedLogin), "MQTT-3.2.2-6": checked(malformedConnects), "MQTT-3.3.1-1": checked(dupOfRedelivery), "MQTT-3.3.1-2": checked(dupIsNotPassedOn),
	"MQTT-3.3.1-3": checked(dupIsNotPassedOn), "MQTT-3.3.1-4": checked(qos3), "MQTT-3.3.1-5": checked(retained), "MQTT-3.3.1-6": checked(retained),
	"MQTT-3.3.1-7": checked(retained), "MQTT-3.3.1-8": checked(retained), "MQTT-3.3.1-9": checked(retainFlagOfLiveMessages), "MQTT-3.3.1-10": checked(retained),
	"MQTT-3.3.1-11": checked(retained), "MQTT-3.3.1-12": checked(retained), "MQTT-3.3.2-1": checked(badUTF8), "MQTT-3.3.2-2": checked(wildcardsInTopics),
	"MQTT-3.3.2-3": checked(topicsMatch), "MQTT-3.3.4-1": checked(answersRepeatIDs), "MQTT-3.3.5-1": checked(overlapping), "MQTT-3.3.5-2": checked(unauthorisedPublish),
	"MQTT-3.6.1-1": checked(wrongFlagsOf(wire.PUBREL)), "MQTT-3.8.1-1": checked(wrongFlagsOf(wire.SUBSCRIBE)), "MQTT-3.8.3-1": checked(badUTF8),
	"MQTT-3.8.3-2": without(supportsAll), "MQTT-3.8.3-3": checked(noFilters), "MQTT-3.8.3-4": checked(reservedSubscriptionBits), "MQTT-3.8.4-1": checked(answersRepeatIDs),
	"MQTT-3.8.4-2": checked(answersRepeatIDs), "MQTT-3.8.4-3": checked(subscriptionsAreReplaced), "MQTT-3.8.4-4": checked(manyFilters), "MQTT-3.8.4-5": checked(manyFilters),
	"MQTT-3.8.4-6": checked(deliveredQoS), "MQTT-3.9.3-1": checked(manyFilters), "MQTT-3.9.3-2": checked(manyFilters),
	"MQTT-3.10.1-1": checked(wrongFlagsOf(wire.UNSUBSCRIBE)), "MQTT-3.10.3-1": checked(badUTF8), "MQTT-3.10.3-2": checked(noFilters), "MQTT-3.10.4-1": checked(unsubscribing),
	"MQTT-3.10.4-2": checked(unsubscribing), "MQTT-3.10.4-3": checked(startedDeliveriesAreFinished), "MQTT-3.10.4-4": checked(answersRepeatIDs),
	"MQTT-3.10.4-5": checked(answersRepeatIDs), "MQTT-3.10.4-6": checked(manyFilters), "MQTT-3.12.4-1": checked(ping), "MQTT-3.14.1-1": checked(reservedFlags),
	"MQTT-3.14.4-3": checked(willsAreDropped), "MQTT-4.1.0-1": checked(sessions), "MQTT-4.1.0-2": checked(sessionIsKeptWhileConnected), "MQTT-4.3.1-1": checked(qos0HasNoID),
	"MQTT-4.3.2-1": checked(ownIDs), "MQTT-4.3.2-2": checked(qos1IDsAreFreeAgain), "MQTT-4.3.3-1": checked(ownIDs), "MQTT-4.3.3-2": checked(qos2FromClients),
	"MQTT-4.4.0-1": checked(dupOfRedelivery), "MQTT-4.5.0-1": checked(everySessionGetsIt), "MQTT-4.6.0-5": checked(ordered), "MQTT-4.6.0-6": checked(ordered),
	"MQTT-4.7.1-1": checked(wildcardsInTopics), "MQTT-4.7.1-2": checked(badFilters), "MQTT-4.7.1-3": checked(badFilters), "MQTT-4.7.2-1": checked(systemTopics),
	"MQTT-4.7.3-1": checked(emptyNames), "MQTT-4.7.3-2": checked(nulCharacter), "MQTT-4.7.3-3": checked(longNames), "MQTT-4.7.3-4": checked(notNormalised),
	"MQTT-4.8.0-1": checked(violationsEndTheConnection), "MQTT-4.8.0-2": without("the error meant here is a failing disk, tested by TestNothingIsAcknowledgedThatCannotBeStored"),
	"MQTT-6.0.0-1": checked(webSocketBinary), "MQTT-6.0.0-2": checked(webSocketFrames), "MQTT-6.0.0-3": checked(webSocketProtocol), "MQTT-6.0.0-4": checked(webSocketProtocol),
	"MQTT-7.0.0-1": without("the bundled broker connects to no other server"), "MQTT-7.0.0-2": without("a statement on all of the others; no extension is needed anywhere"),
	"MQTT-7.1.1-1": checked(overTCP),
}

// webSocket serves the rig's broker over WebSocket too.
func (r *rig) webSocket() string {
	r.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(r.T, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.b.ServeWebSocket(l, origin.New(origin.Options{SocketOrigins: []string{"*.example.org"}}))
	}()
	r.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func webSocketBinary(r *rig) {
	addr := r.webSocket()
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
	ws, _, err := d.Dial("ws://"+addr+"/mqtt", nil)
	testkit.OK(r.T, err)
	defer ws.Close()
	_ = ws.SetReadDeadline(time.Now().Add(mqttest.Patience))
	testkit.OK(r.T, ws.WriteMessage(websocket.BinaryMessage, r.connect(2, S("c"))))
	kind, _, err := ws.ReadMessage()
	testkit.OK(r.T, err)
	r.want("binary", kind == websocket.BinaryMessage)
	testkit.OK(r.T, ws.WriteMessage(websocket.TextMessage, r.packet(wire.PINGREQ, 0)))
	_, _, err = ws.ReadMessage()
	r.want("closed", err != nil)
}

func webSocketFrames(r *rig) {
	addr := r.webSocket()
	for _, size := range []int{0, 1, 2, 3, 7, 1000} {
		c, err := mqttest.Dial(addr, mqttest.Options{Version: r.v, Dial: mqttest.WebSocket("/mqtt", size, nil, nil)})
		testkit.OK(r.T, err)
		_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
		r.sub(c, "t", 2)
		// Two packets in one message, and packets in many.
		r.send(c, append(r.packet(wire.PUBLISH, 0, S("t"), P(""), "one"), r.packet(wire.PUBLISH, 0, S("t"), P(""), make([]byte, 3000))...))
		r.want("one", string(r.next(c).Payload) == "one")
		r.want("two", len(r.next(c).Payload) == 3000)
		r.pub(r.client(), wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 2})
		r.next(c)
		testkit.OK(r.T, c.Disconnect())
	}
}

func webSocketProtocol(r *rig) {
	addr := r.webSocket()
	for _, protocols := range [][]string{{"mqtt"}, {"other", "mqtt"}} {
		ws, answer, err := (&websocket.Dialer{Subprotocols: protocols}).Dial("ws://"+addr+"/mqtt", nil)
		testkit.OK(r.T, err)
		r.want("mqtt is chosen", answer.Header.Get("Sec-WebSocket-Protocol") == "mqtt")
		ws.Close()
	}
	_, answer, err := (&websocket.Dialer{}).Dial("ws://"+addr+"/mqtt", nil)
	r.want("refused without", err != nil && answer.StatusCode == http.StatusBadRequest)
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"other"}}).Dial("ws://"+addr+"/mqtt", nil)
	if err == nil {
		_, _, err = ws.ReadMessage()
		ws.Close()
	}
	r.want("and with another", err != nil)
}
