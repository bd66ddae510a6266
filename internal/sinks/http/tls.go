package httpsink

import (
	"crypto/sha256"
	"crypto/tls"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
)

// TLSConfig is how the destination is trusted, and this program shows itself.
type TLSConfig struct {
	CA         string `koanf:"ca" default:"auto" doc:"A file with the certificates, in PEM form, that may have signed the destination's; auto is those of the system."`
	Cert       string `koanf:"cert" example:"/etc/event2mqtt/client.crt" doc:"A file with the client certificate that is shown, in PEM form."`
	Key        string `koanf:"key" example:"/etc/event2mqtt/client.key" doc:"A file with the key of tls.cert, in PEM form."`
	ServerName string `koanf:"server_name" doc:"The name that the destination's certificate must have; left out, the host of the URL."`
	Insecure   bool   `koanf:"insecure" default:"false" doc:"Whether any certificate is taken, so that anybody on the way can read and change what is sent."`
}

// build reads the files. Its error holds every KeyError.
func (t TLSConfig) build() (*tls.Config, error) {
	var errs config.Errors
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure} //nolint:gosec // asked for by the key "insecure"
	errs.TLSFiles(c, "tls.", t.CA, t.Cert, t.Key)
	return c, errs.Err()
}

// sum is that of a file, so that another certificate asks for another sink.
func sum(path string) (s [sha256.Size]byte) {
	if path == "" || path == "auto" {
		return s
	}
	text, err := file.Read(path, file.MaxPEM)
	if err != nil {
		return s
	}
	return sha256.Sum256(text)
}
