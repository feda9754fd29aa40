package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"maps"
	"strings"
	"testing"
)

// The Secret may hold anything: what can be used is used, the rest is reported, in few words.
func TestHostileSecret(t *testing.T) {
	c := apply(t, Contents{}, nil, start, Found)
	other := apply(t, Contents{}, nil, start, Found)
	data, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Data()
	if err != nil {
		t.Fatal(err)
	}
	of, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := x509.MarshalPKCS8PrivateKey(of)
	if err != nil {
		t.Fatal(err)
	}
	var many []byte
	for range maxTrusted + 1 {
		authority, err := newAuthority(start, settings.AuthorityLifetime)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, Bundle([]*x509.Certificate{authority.Certificate})...)
	}
	large := bytes.Repeat([]byte("-"), maxValue+1)
	for name, test := range map[string]struct {
		key   string
		value []byte
		says  string
	}{
		"authorities are not PEM":     {keyTrusted, []byte("\x00\xff"), "ca.crt: it holds text that is not PEM"},
		"authorities and text":        {keyTrusted, append([]byte("a\n"), append(data[keyTrusted], "b"...)...), "ca.crt: it holds text that is not PEM"},
		"authorities are large":       {keyTrusted, large, "ca.crt: it has 65537 bytes; at most 65536 are read"},
		"authorities are many":        {keyTrusted, many, "ca.crt: it holds more than 8 certificates"},
		"an authority is a key":       {keyTrusted, data[keyAuthority], "ca.crt: it holds a PEM block that is not a CERTIFICATE"},
		"an authority is broken":      {keyTrusted, encode("CERTIFICATE", []byte{1, 2}), "ca.crt: certificate 1: x509"},
		"many broken ones":            {keyTrusted, bytes.Repeat(encode("CERTIFICATE", []byte{1}), 20), "more than 8"},
		"the key is not PEM":          {keyAuthority, []byte("x"), "ca.key: it is not PEM"},
		"the key is large":            {keyAuthority, large, "ca.key: it has 65537 bytes"},
		"the key is broken":           {keyAuthority, encode("PRIVATE KEY", []byte{1}), "ca.key: "},
		"the key is RSA":              {keyAuthority, encode("PRIVATE KEY", rsaKey), "ca.key: it is a *rsa.PrivateKey"},
		"the key is another's":        {keyAuthority, foreign[keyAuthority], "ca.key: no authority in ca.crt has this key"},
		"the next key is another's":   {keyNext, foreign[keyAuthority], "next.key: no authority in ca.crt has this key"},
		"the server's key":            {keyPrivate, foreign[keyPrivate], "tls.crt and tls.key: tls: private key does not match public key"},
		"no server's key":             {keyPrivate, nil, "tls.crt and tls.key: "},
		"the certificate is large":    {keyCertificate, large, "tls.crt and tls.key: it has 65537 bytes"},
		"the certificate is broken":   {keyCertificate, encode("CERTIFICATE", []byte{1}), "tls.crt and tls.key: "},
		"a time is none":              {keyPublished, []byte("yesterday"), "published: "},
		"a time is long":              {keyFormerUntil, large, "former-until: it is not a time"},
		"the certificate is foreign":  {keyCertificate, foreign[keyCertificate], "tls.crt and tls.key: "},
		"an unknown key is no matter": {"other", large, ""},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := maps.Clone(data)
			damaged[test.key] = test.value
			_, err := Read(damaged)
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			if err != nil && len(err.Error()) > 4<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			wantRepaired(t, damaged)
		})
	}
	if c, err := Read(nil); err != nil || c.Authority != nil || c.Serving != nil {
		t.Errorf("an empty Secret: %+v, %v", c, err)
	}
}

// wantRepaired: the steps lead from any contents to those that need none.
func wantRepaired(t *testing.T, data map[string][]byte) {
	t.Helper()
	c, _ := Read(data)
	configurations, now := trusting(data[keyTrusted]), start
	for range 20 {
		step := Next(c, configurations, settings, now)
		switch step.Kind {
		case Wait:
			if c.Next == nil && len(c.Former) == 0 {
				wantServed(t, c, c.Authority.Certificate, now)
				return
			}
			now = step.Until
		case Publish:
			configurations = trusting(Bundle(step.Trusted))
		default:
			var err error
			if c, err = step.Apply(c, settings, now); err != nil {
				t.Fatal(err)
			}
			c = reread(t, c)
		}
	}
	t.Error("the steps do not end")
}

func FuzzRead(f *testing.F) {
	c := Contents{}
	c, err := Step{Kind: Found}.Apply(c, settings, start)
	if err != nil {
		f.Fatal(err)
	}
	data, err := c.Data()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[keyTrusted], data[keyAuthority], data[keyCertificate], data[keyPrivate], "2026-11-28T12:00:00Z")
	f.Add([]byte{}, data[keyPrivate], data[keyTrusted], data[keyAuthority], "")
	f.Fuzz(func(t *testing.T, trusted, authority, certificate, key []byte, at string) {
		data := map[string][]byte{
			keyTrusted: trusted, keyAuthority: authority, keyNext: key, keyCertificate: certificate, keyPrivate: key,
			keyPublished: []byte(at), keyFormerUntil: []byte(at),
		}
		c, _ := Read(data)
		step := Next(c, trusting(trusted), settings, start)
		if _, err := step.Apply(c, settings, start); err != nil {
			t.Errorf("%s: %v", step.Kind, err)
		}
		if pair, err := serving(data, start); err == nil && pair.Leaf == nil {
			t.Error("a certificate without a leaf is served")
		}
	})
}
