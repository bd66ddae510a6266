package lines

import (
	"regexp"
	"strconv"
	"strings"
)

var (
	// rfc5424 is section 6 of RFC 5424: PRI and version, time, host, app, procid,
	// msgid, structured data, message.
	rfc5424 = regexp.MustCompile(`(?s)^<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) (-|(?:\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\])+)(?: (.*))?$`)
	// rfc3164 is what is sent by RFC 3164, and what stands in files such as
	// /var/log/syslog: PRI if it was sent, a time of either kind, host, tag.
	rfc3164 = regexp.MustCompile(`(?s)^(?:<(\d{1,3})>)?([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) (\S+) (?:([^\s:\[\]]+)(?:\[([^\]\s]*)\])?: ?)?(.*)$`)
)

var (
	facilities = strings.Fields("kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock local0 local1 local2 local3 local4 local5 local6 local7")
	severities = strings.Fields("emerg alert crit err warning notice info debug")
)

// syslog takes a line of syslog apart. What is "-" was not there.
func syslog(text, _ []byte) ([]byte, string) {
	var o object
	set := func(key, value string) {
		if value != "" && value != "-" {
			o.text(key, value)
		}
	}
	if m := rfc5424.FindStringSubmatch(string(text)); m != nil {
		priority(&o, m[1])
		set("time", m[2])
		set("host", m[3])
		set("app", m[4])
		if m[5] != "-" {
			o.scalar("pid", m[5])
		}
		set("msgid", m[6])
		set("data", m[7])
		o.text("message", strings.TrimPrefix(m[8], "\ufeff"))
		return o.bytes(), ""
	}
	m := rfc3164.FindStringSubmatch(string(text))
	if m == nil {
		return nil, "it is not a line of syslog"
	}
	if m[1] != "" {
		priority(&o, m[1])
	}
	set("time", m[2])
	set("host", m[3])
	set("app", m[4])
	if m[5] != "" {
		o.scalar("pid", m[5])
	}
	o.text("message", m[6])
	return o.bytes(), ""
}

// priority names the facility and the severity of a PRI.
func priority(o *object, pri string) {
	n, err := strconv.Atoi(pri)
	if err != nil || n/8 >= len(facilities) {
		return
	}
	o.text("facility", facilities[n/8])
	o.text("severity", severities[n%8])
}
