package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"time"
)

// skew is how far behind the webhook's clock an API server's may be.
const skew = time.Hour

// subject is shared by all authorities: clients tell them apart by their key identifiers.
const subject = "lifecycle-shim webhook"

func newAuthority(now time.Time, lifetime time.Duration) (*Authority, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: subject + " authority"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	key, certificate, err := sign(template, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate authority: %w", err)
	}
	return &Authority{certificate, key}, nil
}

// issue makes a server certificate. It does not outlive its authority.
func (a *Authority) issue(now time.Time, lifetime time.Duration, names []string) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: subject},
		NotBefore: now.Add(-skew), NotAfter: earlier(now.Add(lifetime), a.Certificate.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, certificate, err := sign(template, a)
	if err != nil {
		return nil, fmt.Errorf("cannot make a server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}, nil
}

// sign makes a key and its certificate, which signs itself if there is no authority. Its
// serial number is random.
func sign(template *x509.Certificate, by *Authority) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.Certificate, by.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return key, certificate, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
