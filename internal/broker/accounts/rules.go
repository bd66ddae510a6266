package accounts

import (
	"fmt"
	"strings"

	"event2mqtt/internal/topic"
)

// Rule allows or denies what a topic filter matches. In the filter, %u stands
// for the user name and %c for the client id.
type Rule struct {
	Filter      string
	Read, Write bool // neither: denied, whatever else allows it
}

// ParseRule reads a rule such as "tele/kitchen/#:rw". What follows the last
// colon is r, w, rw or deny.
func ParseRule(text string) (Rule, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return Rule{}, fmt.Errorf("%q says nothing of what is allowed; write for example %s:rw (r, w, rw or deny)", text, text)
	}
	r := Rule{Filter: text[:i]}
	switch text[i+1:] {
	case "r":
		r.Read = true
	case "w":
		r.Write = true
	case "rw":
		r.Read, r.Write = true, true
	case "deny":
	default:
		return Rule{}, fmt.Errorf("%q in %q is not one of r, w, rw, deny", text[i+1:], text)
	}
	if !ValidFilter(r.Filter) {
		return Rule{}, fmt.Errorf("%q in %q is not a topic filter; + stands for one level, # for all that follow and only at the end", r.Filter, text)
	}
	return r, nil
}

// String is what ParseRule reads.
func (r Rule) String() string {
	mode := "deny"
	switch {
	case r.Read && r.Write:
		mode = "rw"
	case r.Read:
		mode = "r"
	case r.Write:
		mode = "w"
	}
	return r.Filter + ":" + mode
}

// ValidFilter reports whether a topic filter is well formed (MQTT 5, 4.7.1).
func ValidFilter(filter string) bool { return topic.ValidFilter(filter) }

// Rules are what one client may do. What none of them allows is denied, and a
// rule that denies counts more than any that allow.
type Rules []Rule

// Everything is what a user may do who was added without rules.
func Everything() Rules {
	return Rules{{Filter: "#", Read: true, Write: true}, {Filter: "$SYS/#", Read: true}}
}

// Strings are what ParseRules reads.
func (rules Rules) Strings() []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		out[i] = r.String()
	}
	return out
}

// ParseRules reads a list of rules.
func ParseRules(texts []string) (Rules, error) {
	rules := make(Rules, 0, len(texts))
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// For puts a user name and a client id into the rules. A rule that asks for a
// name which would change the filter's meaning is left out if it allows
// something (CVE-2017-7650), and covers everything in that place if it denies.
func (rules Rules) For(user, client string) Rules {
	out := make(Rules, 0, len(rules))
	for _, r := range rules {
		filter, ok := expand(r.Filter, "%u", user)
		if ok {
			filter, ok = expand(filter, "%c", client)
		}
		if !ok && (r.Read || r.Write) {
			continue
		}
		if !ok {
			i := strings.IndexByte(r.Filter, '%')
			filter = r.Filter[:strings.LastIndexByte(r.Filter[:i], '/')+1] + "#"
		}
		out = append(out, Rule{filter, r.Read, r.Write})
	}
	return out
}

// forAnyClient is For with a client id that is not known: what any one allows
// is allowed.
func (rules Rules) forAnyClient(user string) Rules {
	var out Rules
	for _, r := range rules {
		switch {
		case !strings.Contains(r.Filter, "%c"):
			out = append(out, r)
		case r.Read || r.Write:
			levels := strings.Split(r.Filter, "/")
			for i, level := range levels {
				if strings.Contains(level, "%c") {
					levels[i] = "+"
				}
			}
			out = append(out, Rule{strings.Join(levels, "/"), r.Read, r.Write})
		}
	}
	return out.For(user, "")
}

func expand(filter, placeholder, value string) (string, bool) {
	if !strings.Contains(filter, placeholder) {
		return filter, true
	}
	if value == "" || strings.ContainsAny(value, "+#/") || strings.Contains(value, "%") {
		return filter, false
	}
	return strings.ReplaceAll(filter, placeholder, value), true
}

// MayRead reports whether messages of a topic may be received.
func (rules Rules) MayRead(name string) bool {
	return rules.may(name, func(r Rule) bool { return r.Read })
}

// MayWrite reports whether messages may be published to a topic.
func (rules Rules) MayWrite(name string) bool {
	return rules.may(name, func(r Rule) bool { return r.Write })
}

func (rules Rules) may(name string, allows func(Rule) bool) bool {
	allowed := false
	for _, r := range rules {
		denies := !r.Read && !r.Write
		if (denies || !allowed && allows(r)) && topic.Matches(r.Filter, name) {
			if denies {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

// MayReadSome reports whether a subscription to filter could ever receive
// anything. It then receives what MayRead says, message by message.
func (rules Rules) MayReadSome(filter string) bool {
	some := false
	for _, r := range rules {
		switch {
		case r.Read:
			some = some || overlap(r.Filter, filter)
		case !r.Write && topic.Covers(r.Filter, filter) && !(strings.HasPrefix(filter, "$") && strings.ContainsAny(r.Filter[:1], "+#")):
			return false
		}
	}
	return some
}

// overlap reports whether a topic exists that both filters match.
func overlap(a, b string) bool {
	if strings.HasPrefix(a, "$") != strings.HasPrefix(b, "$") {
		return false // wildcards do not match at the first level (4.7.2)
	}
	for {
		la, ra, morea := strings.Cut(a, "/")
		lb, rb, moreb := strings.Cut(b, "/")
		if la == "#" || lb == "#" {
			return true
		}
		if la != lb && la != "+" && lb != "+" {
			return false
		}
		switch {
		case !morea && !moreb:
			return true
		case !morea:
			return rb == "#"
		case !moreb:
			return ra == "#"
		}
		a, b = ra, rb
	}
}
