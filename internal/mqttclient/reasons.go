package mqttclient

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"event2mqtt/internal/wire"
)

// Why a connection, or what was asked of it, fails beside the broker's reasons.
var (
	ErrClosed   = errors.New("disconnected")
	ErrNoAnswer = errors.New("the broker does not answer (time-out)")
	ErrNoPong   = errors.New("the broker does not answer a ping (time-out)")
	// ErrSilent wraps the end of a connection before CONNACK.
	ErrSilent = errors.New("the broker closed the connection without an answer to CONNECT")
)

// TooLarge is a message that is larger than the broker takes.
type TooLarge struct {
	Size int    // of its packet, in bytes
	Most uint32 // that the broker takes
}

func (e *TooLarge) Error() string {
	return fmt.Sprintf("as a packet it has %d bytes, and the broker takes at most %d", e.Size, e.Most)
}

// Refused is a broker's no to a packet.
type Refused struct {
	Packet wire.Type // CONNECT, PUBLISH, SUBSCRIBE or UNSUBSCRIBE
	Code   wire.Code
	Reason string // what the broker says of it; often ""
	Server string // other servers that it names; often ""
}

func (e *Refused) Error() string { return Words(e.Code) + said(e.Reason) + elsewhere(e.Server) }

// Disconnected is a broker's reason for the end of a connection.
type Disconnected struct {
	Code   wire.Code
	Reason string
	Server string
}

func (e *Disconnected) Error() string {
	return "the broker ended the connection: " + Words(e.Code) + said(e.Reason) + elsewhere(e.Server)
}

func said(reason string) string {
	if reason = printable(reason); reason == "" {
		return ""
	}
	return fmt.Sprintf(" (it says %q)", reason)
}

func elsewhere(server string) string {
	if server = printable(server); server == "" {
		return ""
	}
	return "; it names " + server
}

// printable is a text from outside, fit for a log.
func printable(text string) string {
	const most = 200 // bytes
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}

// sentences say what each reason code means (2.4).
var sentences = map[wire.Code]string{
	wire.Success:                "it gives no reason",
	wire.NoMatchingSubscribers:  "nobody has subscribed to it",
	wire.NoSubscriptionExisted:  "there was no such subscription",
	wire.Unspecified:            "it does not want to say why",
	wire.Malformed:              "it could not read a packet",
	wire.ProtocolError:          "it was sent what the protocol does not allow",
	wire.ImplementationSpecific: "it does not take this, for a reason of its own",
	wire.UnsupportedVersion:     "it does not speak this version of MQTT",
	wire.BadClientID:            "it does not allow the client id",
	wire.BadCredentials:         "wrong user name or password",
	wire.NotAuthorized:          "not authorized",
	wire.ServerUnavailable:      "it is not available at the moment",
	wire.ServerBusy:             "it is busy",
	wire.Banned:                 "this client is banned",
	wire.ShuttingDown:           "it is shutting down",
	wire.BadAuthMethod:          "it does not know this way of authentication",
	wire.KeepAliveTimeout:       "it has heard nothing for one and a half times the keepalive",
	wire.TakenOver:              "another client has connected with the same client id",
	wire.BadFilter:              "it does not allow the topic filter",
	wire.BadTopic:               "it does not allow the topic",
	wire.PacketIDInUse:          "the packet identifier is in use",
	wire.PacketIDNotFound:       "it does not know the packet identifier",
	wire.ReceiveMaxExceeded:     "too many messages were waiting for their acknowledgement",
	wire.BadTopicAlias:          "it does not allow the topic alias",
	wire.PacketTooLarge:         "a packet was larger than it takes",
	wire.MessageRateTooHigh:     "messages came faster than it allows",
	wire.QuotaExceeded:          "its quota is exceeded",
	wire.AdministrativeAction:   "an administrator has ended the connection",
	wire.BadPayload:             "the payload is not what its format says",
	wire.RetainNotSupported:     "it takes no retained messages",
	wire.QoSNotSupported:        "it does not take this QoS",
	wire.UseAnotherServer:       "another server is to be used for now",
	wire.ServerMoved:            "another server is to be used from now on",
	wire.SharedNotSupported:     "it knows no shared subscriptions",
	wire.RateExceeded:           "connections are made more often than it allows",
	wire.MaximumConnectTime:     "connections may not last longer than this",
	wire.IDsNotSupported:        "it knows no subscription identifiers",
	wire.WildcardsNotSupported:  "it allows no wildcards in subscriptions",
}

// Words says what a reason code means, as a part of a sentence about the
// broker, with its number.
func Words(code wire.Code) string {
	text, known := sentences[code]
	if !known {
		text = "for a reason that the standard does not know"
	}
	return fmt.Sprintf("%s (reason code 0x%02x)", text, byte(code))
}
