package accounts

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Cost of the hashes made here (RFC 9106). 4 MiB and 3 passes: a login on a
// Raspberry Pi takes less than 100 ms and 8 MiB; see BenchmarkLogin.
const (
	argonMemory = 4 << 10 // KiB
	argonTime   = 3
	argonSalt   = 16
	argonKey    = 32
)

// Bounds of hashes that come from elsewhere, against files that would keep
// the processor or the memory busy.
const (
	maxArgonMemory = 64 << 10
	maxArgonTime   = 16
	maxBcryptCost  = 14
	maxIterations  = 1_000_000
	maxKey         = 128 // bytes
)

// plainPrefix marks the hash of a password that stands in the configuration.
const plainPrefix = "$sha256$"

// Hash makes a hash of a password, with a salt of its own.
func Hash(password string) string {
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails, see its documentation
	return formatArgon(salt, argon2.IDKey([]byte(password), salt, argonTime, argonMemory, 1, argonKey))
}

func formatArgon(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonTime, b64.EncodeToString(salt), b64.EncodeToString(key))
}

// nobodysHash is verified for users that do not exist: it costs as much as any
// other, and nobody knows a password for it.
func nobodysHash() string { return formatArgon(make([]byte, argonSalt), make([]byte, argonKey)) }

// fastHash is for passwords that stand in the configuration as they are.
func fastHash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return plainPrefix + base64.RawStdEncoding.EncodeToString(sum[:])
}

// CheckHash tells what is wrong with a hash, if it is none that Verify reads.
func CheckHash(hash string) error {
	_, err := parseHash(hash)
	return err
}

// Verify reports whether a password belongs to a hash: argon2id in PHC form,
// bcrypt ($2a$, $2b$, $2y$), or PBKDF2 and salted SHA-512 as Mosquitto writes
// them ($7$, $6$).
func Verify(hash, password string) bool {
	v, err := parseHash(hash)
	return err == nil && v(password)
}

func parseHash(hash string) (verify func(password string) bool, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) < 3 || parts[0] != "" {
		return nil, errors.New("it is not a password hash: argon2id, bcrypt or one that mosquitto_passwd made")
	}
	same := func(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
	switch parts[1] {
	case "sha256":
		key, err := base64.RawStdEncoding.DecodeString(parts[2])
		if err != nil || len(key) != sha256.Size {
			return nil, errors.New("it is a damaged hash")
		}
		return func(password string) bool {
			sum := sha256.Sum256([]byte(password))
			return same(sum[:], key)
		}, nil
	case "argon2id":
		return parseArgon(parts)
	case "2a", "2b", "2y":
		if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost > maxBcryptCost {
			return nil, fmt.Errorf("it is a damaged bcrypt hash, or its cost is above %d", maxBcryptCost)
		}
		return func(password string) bool {
			return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
		}, nil
	case "6", "7":
		iterations := 1
		if parts[1] == "7" && len(parts) == 5 {
			iterations, err = strconv.Atoi(parts[2])
			parts = parts[1:]
		}
		if err != nil || len(parts) != 4 || iterations < 1 || iterations > maxIterations {
			return nil, fmt.Errorf("it is a damaged Mosquitto hash, or has more than %d iterations", maxIterations)
		}
		salt, err1 := base64.StdEncoding.DecodeString(parts[2])
		key, err2 := base64.StdEncoding.DecodeString(parts[3])
		if err1 != nil || err2 != nil || len(key) < 16 || len(key) > maxKey {
			return nil, errors.New("it is a damaged Mosquitto hash")
		}
		if parts[1] == "6" && hash[1] == '6' {
			return func(password string) bool {
				sum := sha512.Sum512(append([]byte(password), salt...))
				return same(sum[:], key)
			}, nil
		}
		return func(password string) bool {
			got, err := pbkdf2.Key(sha512.New, password, salt, iterations, len(key))
			return err == nil && same(got, key)
		}, nil
	}
	return nil, errors.New("it is not a password hash: argon2id, bcrypt or one that mosquitto_passwd made")
}

func parseArgon(parts []string) (func(string) bool, error) {
	damaged := errors.New("it is a damaged argon2id hash")
	if len(parts) != 6 || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, damaged
	}
	var memory, time uint32
	var threads uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil {
		return nil, damaged
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	key, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(key) < 16 || len(key) > maxKey || time < 1 || threads < 1 {
		return nil, damaged
	}
	if memory > maxArgonMemory || time > maxArgonTime {
		return nil, fmt.Errorf("its cost is above m=%d,t=%d", maxArgonMemory, maxArgonTime)
	}
	return func(password string) bool {
		got := argon2.IDKey([]byte(password), salt, time, memory, threads, uint32(len(key)))
		return subtle.ConstantTimeCompare(got, key) == 1
	}, nil
}
