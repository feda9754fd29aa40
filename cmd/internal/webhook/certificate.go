package webhook

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
)

// certificate is the pair of files as last read. Reading them at each handshake is cheap
// compared with the handshake itself, and needs no watch, which could miss a swap of links.
type certificate struct {
	certFile, keyFile string

	mu        sync.Mutex // guards the fields below and orders reads of the files
	cert, key []byte     // the contents that were last tried
	current   *tls.Certificate
}

// openCertificate returns an error if the files do not hold a pair.
func openCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.read()
}

// get returns the pair in the files. If they do not hold a pair, for example because only
// one of them has been replaced yet, it returns the last good one.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
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

// valid returns an error if clients cannot accept the certificate at that time.
func (c *certificate) valid(now time.Time) error {
	pair, _ := c.get(nil)
	if now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
		return fmt.Errorf("the certificate in %s is valid from %s to %s only", c.certFile,
			pair.Leaf.NotBefore.Format(time.RFC3339), pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}
