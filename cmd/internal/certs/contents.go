package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The Secret's keys. Tools know tls.crt, tls.key and ca.crt from Secrets of other kinds.
const (
	keyCertificate = "tls.crt"
	keyPrivate     = "tls.key"
	keyTrusted     = "ca.crt" // all authorities that clients trust
	keyAuthority   = "ca.key" // of the one that signs
	keyNext        = "next.key"
	keyPublished   = "published"
	keyFormerUntil = "former-until"
)

const (
	// maxValue bounds one value of the Secret, and a caBundle, in bytes.
	maxValue = 64 << 10
	// maxTrusted bounds the authorities that are read from one text.
	maxTrusted = 8
)

// Authority signs server certificates.
type Authority struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Contents are what the Secret holds.
type Contents struct {
	// Authority signs. It is nil in an empty Secret, and until Next takes over in one that was damaged.
	Authority *Authority
	// Next will sign, once all clients trust it.
	Next *Authority
	// Former signed certificates that may still be served, until FormerUntil.
	Former      []*x509.Certificate
	FormerUntil time.Time
	// Serving is what the replicas serve. Its Leaf is set.
	Serving *tls.Certificate
	// Published is when Next was first seen in all configurations.
	Published time.Time
}

// Trusted are the authorities that clients should trust.
func (c Contents) Trusted() []*x509.Certificate {
	var trusted []*x509.Certificate
	for _, authority := range []*Authority{c.Authority, c.Next} {
		if authority != nil {
			trusted = append(trusted, authority.Certificate)
		}
	}
	return append(trusted, c.Former...)
}

// Read returns what can be used of a Secret's data, and errors about the rest.
func Read(data map[string][]byte) (Contents, error) {
	var c Contents
	var errs []error
	trusted, err := readBundle(data[keyTrusted])
	errs = append(errs, within(keyTrusted, err))
	for name, into := range map[string]**Authority{keyAuthority: &c.Authority, keyNext: &c.Next} {
		authority, err := readAuthority(data[name], trusted)
		*into = authority
		errs = append(errs, within(name, err))
	}
	for _, certificate := range trusted {
		if !signsAs(c.Authority, certificate) && !signsAs(c.Next, certificate) {
			c.Former = append(c.Former, certificate)
		}
	}
	c.Serving, err = readPair(data[keyCertificate], data[keyPrivate])
	errs = append(errs, within(keyCertificate+" and "+keyPrivate, err))
	for name, into := range map[string]*time.Time{keyPublished: &c.Published, keyFormerUntil: &c.FormerUntil} {
		*into, err = readTime(data[name])
		errs = append(errs, within(name, err))
	}
	return c, errors.Join(errs...)
}

func within(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

func signsAs(authority *Authority, certificate *x509.Certificate) bool {
	return authority != nil && authority.Certificate.Equal(certificate)
}

// readBundle returns the certificates of a PEM text, each once. With an error, it returns
// those that can be read.
func readBundle(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxValue {
		return nil, tooLarge(len(text))
	}
	var certificates []*x509.Certificate
	var errs []error
	rest := bytes.TrimSpace(text)
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certificates, errors.Join(append(errs, errors.New("it holds text that is not PEM"))...)
		}
		rest = bytes.TrimSpace(rest)
		certificate, err := x509.ParseCertificate(block.Bytes)
		switch {
		case block.Type != "CERTIFICATE":
			errs = append(errs, errors.New("it holds a PEM block that is not a CERTIFICATE"))
		case err != nil:
			errs = append(errs, fmt.Errorf("certificate %d: %w", len(certificates)+len(errs)+1, err))
		case !slices.ContainsFunc(certificates, certificate.Equal):
			certificates = append(certificates, certificate)
		}
		if len(certificates) == maxTrusted && len(rest) > 0 || len(errs) == maxTrusted {
			return certificates, errors.Join(append(errs, fmt.Errorf("it holds more than %d certificates", maxTrusted))...)
		}
	}
	return certificates, errors.Join(errs...)
}

// readAuthority finds the certificate of a key.
func readAuthority(text []byte, among []*x509.Certificate) (*Authority, error) {
	if len(text) == 0 {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	if len(text) > maxValue {
		return nil, tooLarge(len(text))
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T; the webhook makes ECDSA keys", parsed)
	}
	for _, certificate := range among {
		if key.PublicKey.Equal(certificate.PublicKey) && certificate.IsCA {
			return &Authority{certificate, key}, nil
		}
	}
	return nil, fmt.Errorf("no authority in %s has this key", keyTrusted)
}

// readPair returns nil if both are empty.
func readPair(certificate, key []byte) (*tls.Certificate, error) {
	if len(certificate) == 0 && len(key) == 0 {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	if larger := max(len(certificate), len(key)); larger > maxValue {
		return nil, tooLarge(larger)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

func readTime(text []byte) (time.Time, error) {
	if len(text) == 0 {
		return time.Time{}, nil
	}
	if len(text) > len(time.RFC3339Nano) {
		return time.Time{}, errors.New("it is not a time")
	}
	return time.Parse(time.RFC3339, string(text))
}

func tooLarge(size int) error {
	return fmt.Errorf("it has %d bytes; at most %d are read", size, maxValue)
}

// Data returns the Secret's data.
func (c Contents) Data() (map[string][]byte, error) {
	data := map[string][]byte{keyTrusted: Bundle(c.Trusted())}
	for name, authority := range map[string]*Authority{keyAuthority: c.Authority, keyNext: c.Next} {
		if authority == nil {
			continue
		}
		text, err := writeKey(authority.Key)
		if err != nil {
			return nil, err
		}
		data[name] = text
	}
	if c.Serving != nil {
		key, err := writeKey(c.Serving.PrivateKey)
		if err != nil {
			return nil, err
		}
		var chain bytes.Buffer
		for _, der := range c.Serving.Certificate {
			chain.Write(encode("CERTIFICATE", der))
		}
		data[keyCertificate], data[keyPrivate] = chain.Bytes(), key
	}
	for name, at := range map[string]time.Time{keyPublished: c.Published, keyFormerUntil: c.FormerUntil} {
		if !at.IsZero() {
			data[name] = []byte(at.UTC().Format(time.RFC3339Nano))
		}
	}
	return data, nil
}

// Bundle returns certificates in PEM.
func Bundle(certificates []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, certificate := range certificates {
		text.Write(encode("CERTIFICATE", certificate.Raw))
	}
	return text.Bytes()
}

func writeKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
