// Package config loads configuration: defaults, then a YAML file, then the
// environment. It is strict, and its errors name the file, the line, the key,
// what was found and what is allowed, all of them in one go. It knows no
// component's options; those are structs with koanf tags that live with the
// component.
package config

import "strings"

// delimiter joins key paths inside koanf; no YAML key that is allowed holds it.
const delimiter = "\x1f"

// join and parent work on keys: paths such as sources[0].auth.token.

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	if strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}
