package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config/file"
)

// TLSOptions say how a listener proves who it is, and its clients who they are.
type TLSOptions struct {
	Cert, Key string // PEM files
	// ClientCA is a PEM file; clients may show a certificate that it signed.
	ClientCA string
	// RequireCertificate makes them.
	RequireCertificate bool
	MinVersion         uint16
	Log                zerolog.Logger
}

// NewTLS returns a configuration that follows its files: who connects after
// they were replaced sees the new ones, and connections stay as they are. The
// error tells which file cannot be used.
func NewTLS(o TLSOptions) (*tls.Config, error) {
	f := &tlsFiles{opt: o}
	if err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         o.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current(), nil },
	}, nil
}

// tlsFiles are the files of a configuration as they were loaded.
type tlsFiles struct {
	opt TLSOptions

	mu      sync.Mutex
	config  *tls.Config
	seen    [3]stamp
	looked  time.Time
	refused [3]stamp // could not be used; reported
}

type stamp struct {
	modified time.Time
	size     int64
}

// load reads the files. mu is held, or nobody else knows f.
func (f *tlsFiles) load() error {
	f.seen, f.looked = f.stamps(), time.Now()
	pair, err := file.KeyPair(f.opt.Cert, f.opt.Key)
	if err != nil {
		return fmt.Errorf("load the certificate %s and its key %s: %w", f.opt.Cert, f.opt.Key, err)
	}
	c := &tls.Config{MinVersion: f.opt.MinVersion, Certificates: []tls.Certificate{pair}}
	if f.opt.ClientCA != "" {
		text, err := file.Read(f.opt.ClientCA, file.MaxPEM)
		if err != nil {
			return fmt.Errorf("load the authority of clients: %w", err)
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("load the authority of clients: %s holds no PEM certificate", f.opt.ClientCA)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if f.opt.RequireCertificate {
		if f.opt.ClientCA == "" {
			return errors.New("client certificates are required, and no authority is given to check them")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	f.config = c
	return nil
}

func (f *tlsFiles) stamps() (s [3]stamp) {
	for i, path := range []string{f.opt.Cert, f.opt.Key, f.opt.ClientCA} {
		if info, err := file.Stat(path); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

// current returns what holds now. Files that cannot be used, such as a key
// that does not yet belong to the new certificate, leave it as it was.
func (f *tlsFiles) current() *tls.Config {
	const often = time.Second
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < often {
		return f.config
	}
	now, before := f.stamps(), f.seen
	if f.looked = time.Now(); now == before {
		return f.config
	}
	if err := f.load(); err != nil {
		f.seen = before // look again
		if f.refused != now {
			f.refused = now
			f.opt.Log.Error().Err(err).Msg("broker: the new certificate cannot be used; the one before stays")
		}
		return f.config
	}
	f.opt.Log.Info().Str("certificate", f.opt.Cert).Msg("broker: certificate reloaded")
	return f.config
}
