// Package certtest makes certificates for tests. It is not for use in the
// program.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates for 127.0.0.1.
type Authority struct {
	// Cert is its own certificate, CAFile the file that holds it.
	Cert   *x509.Certificate
	CAFile string

	t   testing.TB
	dir string
	key *ecdsa.PrivateKey
}

// New returns an authority that lives as long as the test.
func New(t testing.TB) *Authority {
	a := &Authority{t: t, dir: t.TempDir()}
	var file string
	a.Cert, a.key, file = a.issue("authority", nil)
	a.CAFile = file + ".crt"
	return a
}

// Issue writes a certificate and its key; change may alter it before it is
// signed.
func (a *Authority) Issue(name string, change func(*x509.Certificate)) (certFile, keyFile string) {
	_, _, file := a.issue(name, change)
	return file + ".crt", file + ".key"
}

func (a *Authority) issue(name string, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	a.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: a.Cert == nil, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	parent, signer := a.Cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer))(a.t)
	keyDER := must(x509.MarshalECPrivateKey(key))(a.t)
	file := filepath.Join(a.dir, name)
	a.write(file+".crt", "CERTIFICATE", der)
	a.write(file+".key", "EC PRIVATE KEY", keyDER)
	return must(x509.ParseCertificate(der))(a.t), key, file
}

func (a *Authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
