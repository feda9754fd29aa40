package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/webhook"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

var errNone = errors.New("there is no certificate yet: the replica that leads writes it into the Secret")

// Holder has the certificate that the Secret had last. It implements webhook.Certificates.
type Holder struct {
	mu      sync.Mutex // guards the fields below
	current *tls.Certificate
	refused string // the last error that was logged
}

// Get implements webhook.Certificates.
func (h *Holder) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return nil, errNone
	}
	return h.current, nil
}

// Valid implements webhook.Certificates.
func (h *Holder) Valid(now time.Time) error {
	current, err := h.Get(nil)
	if err != nil {
		return err
	}
	return webhook.InTime(current.Leaf, now)
}

// Take reads a Secret's data; nil if it was deleted. If it has no certificate that can be
// served, clients get the last one that could.
func (h *Holder) Take(data map[string][]byte, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pair, err := serving(data, now)
	if err != nil {
		if text := shorten.End(err.Error(), maxText); text != h.refused {
			h.refused = text
			log.L.WithField("serving", h.current != nil).Errorf("cannot serve the certificate of the Secret, clients get the last good one if there is one: %s", text)
		}
		return
	}
	h.refused = ""
	if h.current != nil && h.current.Leaf.Equal(pair.Leaf) {
		return
	}
	h.current = pair
	log.L.WithField("names", pair.Leaf.DNSNames).WithField("until", pair.Leaf.NotAfter.Format(time.RFC3339)).Info("certificate read")
}

// serving does not look at keys of authorities: only the leader needs them.
func serving(data map[string][]byte, now time.Time) (*tls.Certificate, error) {
	trusted, err := readBundle(data[keyTrusted])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyTrusted, err)
	}
	pair, err := readPair(data[keyCertificate], data[keyPrivate])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", keyCertificate, keyPrivate, err)
	}
	if pair == nil {
		return nil, errNone
	}
	if err := verify(pair.Leaf, trusted, nil, now); err != nil {
		return nil, fmt.Errorf("%s: %w", keyCertificate, err)
	}
	return pair, nil
}
