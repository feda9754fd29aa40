package certs

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

var settings = Settings{Names: []string{"a.b.svc", "127.0.0.1"}, CertificateLifetime: 6 * time.Hour, AuthorityLifetime: 24 * time.Hour, Propagation: time.Hour}

var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// apply carries out a step that must be of this kind.
func apply(t *testing.T, c Contents, configurations []Configuration, now time.Time, want Kind) Contents {
	t.Helper()
	step := Next(c, configurations, settings, now)
	if step.Kind != want {
		t.Fatalf("the step is %q (%s), want %q", step.Kind, step.Reason, want)
	}
	c, err := step.Apply(c, settings, now)
	if err != nil {
		t.Fatal(err)
	}
	return reread(t, c)
}

// reread: nothing is lost in the Secret.
func reread(t *testing.T, c Contents) Contents {
	t.Helper()
	data, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Read(data)
	if err != nil {
		t.Fatal(err)
	}
	if (read.Authority == nil) != (c.Authority == nil) || (read.Next == nil) != (c.Next == nil) || (read.Serving == nil) != (c.Serving == nil) ||
		len(read.Former) != len(c.Former) || !read.Published.Equal(c.Published) || !read.FormerUntil.Equal(c.FormerUntil) {
		t.Fatalf("%+v becomes %+v", c, read)
	}
	return read
}

// trusting are two configurations, of one and two entries.
func trusting(bundle []byte) []Configuration {
	return []Configuration{{Kind: mutating, Bundles: [][]byte{bundle, bundle}}, {Kind: validating, Bundles: [][]byte{bundle}}}
}

func wantServed(t *testing.T, c Contents, by *x509.Certificate, now time.Time) {
	t.Helper()
	if c.Serving == nil {
		t.Fatal("there is no certificate")
	}
	if err := verify(c.Serving.Leaf, []*x509.Certificate{by}, settings.Names, now); err != nil {
		t.Error(err)
	}
}

// An authority is replaced in stages, in this order, at these times.
func TestAuthorityRotates(t *testing.T) {
	c := apply(t, Contents{}, trusting(nil), start, Found)
	first := c.Authority.Certificate
	wantServed(t, c, first, start)
	if step := Next(c, trusting(nil), settings, start); step.Kind != Publish || len(step.Configurations) != 2 {
		t.Errorf("after the first certificate: %+v", step)
	}
	old := trusting(Bundle(c.Trusted()))
	if step := Next(c, old, settings, start); step.Kind != Wait || !step.Until.Equal(start.Add(4*time.Hour)) {
		t.Errorf("nothing is due: %+v", step)
	}
	now := start.Add(4 * time.Hour) // a third of 6 h is left
	served := c.Serving.Leaf
	if c = apply(t, c, old, now, Issue); c.Serving.Leaf.Equal(served) || len(c.Former) > 0 {
		t.Error("the certificate is not renewed, or its authority is not the same")
	}
	wantServed(t, c, first, now)
	for range 2 {
		now = now.Add(4 * time.Hour)
		c = apply(t, c, old, now, Issue)
	}
	now = start.Add(16 * time.Hour) // a third of 24 h is left
	c = apply(t, c, old, now, Propose)
	both := trusting(Bundle(c.Trusted()))
	if !c.Authority.Certificate.Equal(first) || c.Next == nil || len(c.Trusted()) != 2 || c.Serving == nil {
		t.Fatalf("proposed: %+v", c)
	}
	half := append(both[:1:1], old[1]) // only one of the two is written yet
	if step := Next(c, half, settings, now); step.Kind != Publish || len(step.Configurations) != 1 || step.Configurations[0] != 1 {
		t.Errorf("one configuration trusts the former only: %+v", step)
	}
	c = apply(t, c, both, now, Mark)
	if step := Next(c, half, settings, now); step.Kind != Unmark {
		t.Errorf("a configuration was changed while API servers read it: %+v", step)
	}
	now = now.Add(settings.Propagation - time.Nanosecond)
	c = apply(t, c, both, now, Issue) // the certificate is due meanwhile
	wantServed(t, c, first, now)
	if step := Next(c, both, settings, now); step.Kind != Wait || !step.Until.Equal(c.Published.Add(settings.Propagation)) {
		t.Errorf("API servers may not know the next authority yet: %+v", step)
	}
	now = now.Add(time.Nanosecond)
	expiry := c.Serving.Leaf.NotAfter
	c = apply(t, c, both, now, Promote)
	wantServed(t, c, c.Authority.Certificate, now)
	if c.Next != nil || len(c.Former) != 1 || !c.Former[0].Equal(first) || !c.FormerUntil.Equal(expiry) {
		t.Fatalf("promoted: %+v", c)
	}
	if Next(c, both, settings, expiry.Add(-time.Nanosecond)).Kind == Drop {
		t.Error("an authority is dropped before what it signed has expired")
	}
	c = apply(t, c, both, expiry, Issue)
	c = apply(t, c, both, expiry, Drop)
	if step := Next(c, both, settings, expiry); step.Kind != Publish || len(step.Trusted) != 1 || !step.Trusted[0].Equal(c.Authority.Certificate) {
		t.Errorf("the former authority stays trusted: %+v", step)
	}
}

// A Secret that was lost or damaged is made anew; what the configurations trust is kept
// until replicas serve the new certificate.
func TestLostSecret(t *testing.T) {
	c := apply(t, Contents{}, trusting(nil), start, Found)
	old := trusting(Bundle(c.Trusted()))
	first := c.Authority.Certificate
	data, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(map[string][]byte){
		"lost":               func(d map[string][]byte) { clear(d) },
		"no authority's key": func(d map[string][]byte) { delete(d, keyAuthority) },
		"another key":        func(d map[string][]byte) { d[keyAuthority] = d[keyPrivate] },
		"no authorities":     func(d map[string][]byte) { delete(d, keyTrusted) },
	} {
		t.Run(name, func(t *testing.T) {
			damaged := map[string][]byte{}
			for key, value := range data {
				damaged[key] = value
			}
			damage(damaged)
			c, _ := Read(damaged)
			c = apply(t, c, old, start, Propose)
			if c.Authority != nil || len(c.Former) != 1 || !c.Former[0].Equal(first) {
				t.Fatalf("proposed: %+v", c)
			}
			if kept := c.Serving != nil; kept != (name != "lost") {
				t.Errorf("the certificate is kept: %t", kept)
			}
			both := trusting(Bundle(c.Trusted()))
			c = apply(t, c, both, start, Mark)
			if step := Next(c, both, settings, start); step.Kind != Wait || !step.Until.Equal(start.Add(settings.Propagation)) {
				t.Errorf("it does not wait: %+v", step)
			}
			now := start.Add(settings.Propagation)
			c = apply(t, c, both, now, Promote)
			wantServed(t, c, c.Authority.Certificate, now)
			if len(c.Former) != 1 || !c.FormerUntil.After(now) {
				t.Errorf("promoted: %+v", c)
			}
		})
	}
	expired := start.Add(25 * time.Hour)
	if step := Next(Contents{}, old, settings, expired); step.Kind != Found {
		t.Errorf("what has expired is kept: %+v", step)
	}
	if step := Next(c, old, settings, expired); step.Kind != Found {
		t.Errorf("an authority that has expired signs: %+v", step)
	}
	if step := Next(c, old, settings, start.Add(-2*time.Hour)); step.Kind != Found {
		t.Errorf("an authority that is not valid yet signs: %+v", step)
	}
}

// A certificate that clients would refuse is issued again.
func TestUnfitCertificates(t *testing.T) {
	c := apply(t, Contents{}, nil, start, Found)
	other := apply(t, Contents{}, nil, start, Found)
	of := func(names ...string) Contents {
		changed := c
		var err error
		if changed.Serving, err = c.Authority.issue(start, time.Hour, names); err != nil {
			t.Fatal(err)
		}
		return changed
	}
	none, foreign := c, c
	none.Serving, foreign.Serving = nil, other.Serving
	for why, contents := range map[string]Contents{
		"there is no":     none,
		"not signed by":   foreign,
		"not for all":     of("a.b.svc"),
		"not for all nam": of("127.0.0.1"),
		"has expired":     c,
	} {
		now := start
		if why == "has expired" {
			now = start.Add(7 * time.Hour)
		}
		step := Next(contents, trusting(Bundle(c.Trusted())), settings, now)
		if step.Kind != Issue || !strings.Contains(step.Reason, why) {
			t.Errorf("%s: %+v", why, step)
		}
	}
	// Near its end an authority cannot sign for longer: that is no reason to sign again and again.
	now := c.Authority.Certificate.NotAfter.Add(-time.Minute)
	next := apply(t, c, trusting(Bundle(c.Trusted())), now, Propose)
	next = apply(t, next, trusting(Bundle(next.Trusted())), now, Mark)
	next = apply(t, next, trusting(Bundle(next.Trusted())), now, Issue)
	if step := Next(next, trusting(Bundle(next.Trusted())), settings, now); step.Kind != Wait {
		t.Errorf("it does not wait: %+v", step)
	}
	// And one that has ended while its successor is published signs no more.
	now = now.Add(2 * time.Minute)
	if step := Next(next, trusting(Bundle(next.Trusted())), settings, now); step.Kind != Wait {
		t.Errorf("it does not wait: %+v", step)
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		change func(*Settings)
		says   string
	}{
		{func(*Settings) {}, ""},
		{func(s *Settings) { s.Names = nil }, "0 names"},
		{func(s *Settings) { s.Names = make([]string, 101) }, "101 names"},
		{func(s *Settings) { s.Names = []string{"a", ""} }, "empty"},
		{func(s *Settings) { s.Names = []string{strings.Repeat("a", 254)} }, "253 bytes"},
		{func(s *Settings) { s.CertificateLifetime = 0 }, "at least 1s"},
		{func(s *Settings) { s.Propagation = -1 }, "negative"},
		{func(s *Settings) { s.CertificateLifetime++ }, "4 times"},
		{func(s *Settings) { s.Propagation = 7 * time.Hour }, "4 times"},
	} {
		changed := settings
		test.change(&changed)
		if err := changed.Check(); (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("want %q, got %v", test.says, err)
		}
	}
}
