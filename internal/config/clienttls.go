package config

import (
	"crypto/tls"
	"crypto/x509"

	"event2mqtt/internal/config/file"
)

// TLSFiles reads the files of a client's TLS into c, and adds what is wrong with
// them; the keys begin with at. ca has the certificates that may have signed the
// destination's; auto, and "", is those of the system. cert and key are what the
// client shows; both may be "". All are in PEM form.
func (e *Errors) TLSFiles(c *tls.Config, at, ca, cert, key string) {
	if ca != "auto" && ca != "" {
		pem, err := file.Read(ca, file.MaxPEM)
		c.RootCAs = x509.NewCertPool()
		if err != nil {
			e.Bad(at+"ca", "%w", err)
		} else if !c.RootCAs.AppendCertsFromPEM(pem) {
			e.Bad(at+"ca", "%s holds no certificate in PEM form", ca)
		}
	}
	switch {
	case (cert == "") != (key == ""):
		e.Relation(at+"key", at+"cert", "cert and key must be given together")
	case cert != "":
		pair, err := file.KeyPair(cert, key)
		if err != nil {
			e.Bad(at+"cert", "%w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
}
