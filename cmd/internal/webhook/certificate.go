package webhook

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
)

// Certificates gives the server its certificate.
type Certificates interface {
	// Get is called for each handshake, as tls.Config's GetCertificate.
	Get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Valid returns an error if clients cannot accept the certificate at that time.
	Valid(now time.Time) error
}

// certificate is the pair of files as last read. Reading them at each handshake is cheap
// compared with the handshake itself, and needs no watch, which could miss a swap of links.
type certificate struct {
	certFile, keyFile string

	mu        sync.Mutex // guards the fields below and orders reads of the files
	cert, key []byte     // the contents that were last tried
	current   *tls.Certificate
}

// Files are certificates in two PEM files, which may be replaced. It returns an error if the
// files do not hold a pair.
func Files(certFile, keyFile string) (Certificates, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("cannot read the certificate, without which the webhook does not serve: %w", err)
	}
	return c, nil
}

// Get returns the pair in the files. If they do not hold a pair, for example because only
// one of them has been replaced yet, it returns the last good one.
func (c *certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		log.L.WithError(err).Error("cannot read the certificate; clients get the last good one until its files are corrected")
	}
	return c.current, nil
}

// read does nothing if the files have not changed since they were last tried.
func (c *certificate) read() error {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	c.cert, c.key = cert, key
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.current = &pair
	log.L.WithField("subject", pair.Leaf.Subject).WithField("names", pair.Leaf.DNSNames).
		WithField("until", pair.Leaf.NotAfter.Format(time.RFC3339)).Info("certificate read")
	return nil
}

// Valid implements Certificates.
func (c *certificate) Valid(now time.Time) error {
	pair, _ := c.Get(nil)
	if err := InTime(pair.Leaf, now); err != nil {
		return fmt.Errorf("%s: %w", c.certFile, err)
	}
	return nil
}

// InTime returns an error if a certificate is not valid at that time.
func InTime(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return fmt.Errorf("the certificate is valid from %s to %s only", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	return nil
}
