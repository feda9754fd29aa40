package certs

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Settings of the certificates.
type Settings struct {
	// Names are the DNS names and IP addresses of the server.
	Names []string
	// CertificateLifetime and AuthorityLifetime: each is renewed when a third is left.
	CertificateLifetime, AuthorityLifetime time.Duration
	// Propagation is how long it may take until every API server has read a changed configuration.
	Propagation time.Duration
}

const (
	maxNames = 100
	// perAuthority: in a third of its lifetime, an authority is replaced and everything that it signed expires.
	perAuthority = 4
)

// Check returns an error if certificates could not be rotated with these settings.
func (s Settings) Check() error {
	switch {
	case len(s.Names) == 0 || len(s.Names) > maxNames:
		return fmt.Errorf("the server has %d names: give 1 to %d", len(s.Names), maxNames)
	case slices.ContainsFunc(s.Names, func(name string) bool { return name == "" || len(name) > 253 }):
		return errors.New("a name of the server is empty, or has more than 253 bytes")
	case s.CertificateLifetime < time.Second || s.Propagation < 0:
		return errors.New("a certificate must live for at least 1s, and a wait must not be negative")
	case s.AuthorityLifetime < perAuthority*s.CertificateLifetime || s.AuthorityLifetime < perAuthority*s.Propagation:
		return fmt.Errorf("an authority that lives for %s cannot be replaced in time: it must live %d times as long as a certificate (%s) and as changes take (%s)",
			s.AuthorityLifetime, perAuthority, s.CertificateLifetime, s.Propagation)
	}
	return nil
}

// Configuration is a webhook configuration.
type Configuration struct {
	Kind, Version string
	// Bundles are the caBundles of its entries.
	Bundles [][]byte
}

// Kind of a step.
type Kind string

const (
	// Wait does nothing until Step.Until.
	Wait Kind = "wait"
	// Found makes an authority and a certificate. Nothing is trusted that could be kept.
	Found Kind = "found"
	// Propose makes the next authority.
	Propose Kind = "propose"
	// Publish writes Step.Trusted into Step.Configurations.
	Publish Kind = "publish"
	// Mark records that the next authority is in all configurations.
	Mark Kind = "mark"
	// Unmark records that it is no longer.
	Unmark Kind = "unmark"
	// Promote lets the next authority sign a certificate, and the present one sign no more.
	Promote Kind = "promote"
	// Issue makes a certificate.
	Issue Kind = "issue"
	// Drop removes the former authorities.
	Drop Kind = "drop"
)

// Step is what has to be done next. Apply carries out what concerns the Secret.
type Step struct {
	Kind Kind
	// Reason is for the log.
	Reason string
	Until  time.Time
	// Trusted is what the configurations get, or for Propose the former authorities.
	Trusted []*x509.Certificate
	// Configurations are those that trust something else, by their place in the argument of Next.
	Configurations []int
}

// Next decides the next step.
func Next(c Contents, configurations []Configuration, s Settings, now time.Time) Step {
	if step, needed := authorities(c, configurations, s, now); needed {
		return step
	}
	if stale := stale(c.Trusted(), configurations); len(stale) > 0 {
		if !c.Published.IsZero() {
			return Step{Kind: Unmark, Reason: "a configuration was changed: API servers have to read it again"}
		}
		return Step{Kind: Publish, Reason: "a configuration trusts other authorities than the Secret's", Trusted: c.Trusted(), Configurations: stale}
	}
	var until time.Time
	if c.Next != nil {
		if c.Published.IsZero() {
			return Step{Kind: Mark, Reason: "all configurations trust the next authority"}
		}
		until = c.Published.Add(s.Propagation)
		if c.Published.After(now) { // a clock was wrong
			until = now.Add(s.Propagation)
		}
		if !now.Before(until) {
			return Step{Kind: Promote, Reason: "all API servers trust the next authority"}
		}
	}
	if c.Authority == nil || !inTime(c.Authority.Certificate, now) {
		return Step{Kind: Wait, Reason: "API servers read the next authority", Until: until}
	}
	if why := c.unfit(s, now); why != "" {
		return Step{Kind: Issue, Reason: why}
	}
	if len(c.Former) > 0 && !now.Before(c.FormerUntil) {
		return Step{Kind: Drop, Reason: "what the former authority signed has expired"}
	}
	return Step{Kind: Wait, Reason: "nothing is due", Until: c.due(until, s, now)}
}

// authorities decides whether an authority has to be made.
func authorities(c Contents, configurations []Configuration, s Settings, now time.Time) (Step, bool) {
	if c.Next != nil && inTime(c.Next.Certificate, now) {
		return Step{}, false
	}
	if c.Authority != nil && inTime(c.Authority.Certificate, now) {
		if now.Before(renewal(c.Authority.Certificate, s.AuthorityLifetime)) && c.Next == nil {
			return Step{}, false
		}
		return Step{Kind: Propose, Reason: "the authority will expire", Trusted: valid(c.Former, now)}, true
	}
	former := valid(append(c.Trusted(), published(configurations)...), now)
	if len(former) == 0 {
		return Step{Kind: Found, Reason: "there is no authority"}, true
	}
	return Step{Kind: Propose, Reason: "the Secret has no authority that can sign, and replicas may serve a certificate that is still trusted", Trusted: former}, true
}

// unfit says why the server's certificate has to be made anew.
func (c Contents) unfit(s Settings, now time.Time) string {
	if c.Serving == nil {
		return "there is no server certificate"
	}
	leaf := c.Serving.Leaf
	if leaf.CheckSignatureFrom(c.Authority.Certificate) != nil {
		return "the server certificate is not signed by the authority"
	}
	for _, name := range s.Names {
		if leaf.VerifyHostname(bracketed(name)) != nil {
			return "the server certificate is not for all names"
		}
	}
	if !inTime(leaf, now) {
		return "the server certificate has expired"
	}
	longest := earlier(now.Add(s.CertificateLifetime), c.Authority.Certificate.NotAfter)
	if !now.Before(renewal(leaf, s.CertificateLifetime)) && longest.After(leaf.NotAfter.Add(s.CertificateLifetime/10)) {
		return "the server certificate will expire"
	}
	return ""
}

// bracketed: VerifyHostname takes a name without brackets for a DNS name.
func bracketed(name string) string {
	if net.ParseIP(name) != nil {
		return "[" + name + "]"
	}
	return name
}

// due is when the next step has to be decided.
func (c Contents) due(until time.Time, s Settings, now time.Time) time.Time {
	times := []time.Time{until, renewal(c.Authority.Certificate, s.AuthorityLifetime), renewal(c.Serving.Leaf, s.CertificateLifetime), c.Serving.Leaf.NotAfter}
	if len(c.Former) > 0 {
		times = append(times, c.FormerUntil)
	}
	later := slices.DeleteFunc(times, func(t time.Time) bool { return !t.After(now) })
	if len(later) == 0 {
		return now.Add(s.CertificateLifetime)
	}
	return slices.MinFunc(later, time.Time.Compare)
}

// renewal is when a third of the lifetime is left.
func renewal(certificate *x509.Certificate, lifetime time.Duration) time.Time {
	return certificate.NotAfter.Add(-lifetime / 3)
}

func inTime(certificate *x509.Certificate, now time.Time) bool {
	return !now.Before(certificate.NotBefore) && !now.After(certificate.NotAfter)
}

// valid returns those that are valid now, each once, the youngest first. There are at most
// two less than are read of a bundle: the ones that sign are in it too.
func valid(certificates []*x509.Certificate, now time.Time) []*x509.Certificate {
	var kept []*x509.Certificate
	for _, certificate := range certificates {
		if inTime(certificate, now) && !slices.ContainsFunc(kept, certificate.Equal) {
			kept = append(kept, certificate)
		}
	}
	slices.SortStableFunc(kept, func(a, b *x509.Certificate) int { return cmp.Compare(b.NotBefore.Unix(), a.NotBefore.Unix()) })
	return kept[:min(len(kept), maxTrusted-2)]
}

// published are the authorities in all configurations.
func published(configurations []Configuration) []*x509.Certificate {
	var all []*x509.Certificate
	for _, configuration := range configurations {
		for _, bundle := range configuration.Bundles {
			certificates, _ := readBundle(bundle) // an API server ignores what is broken, too
			all = append(all, certificates...)
		}
	}
	return all
}

// stale returns the configurations with an entry that does not trust exactly these.
func stale(trusted []*x509.Certificate, configurations []Configuration) []int {
	var which []int
	for i, configuration := range configurations {
		if slices.ContainsFunc(configuration.Bundles, func(bundle []byte) bool { return !holds(bundle, trusted) }) {
			which = append(which, i)
		}
	}
	return which
}

func holds(bundle []byte, trusted []*x509.Certificate) bool {
	certificates, err := readBundle(bundle)
	if err != nil || len(certificates) != len(trusted) {
		return false
	}
	return !slices.ContainsFunc(trusted, func(one *x509.Certificate) bool { return !slices.ContainsFunc(certificates, one.Equal) })
}

// Apply returns the contents of the Secret after a step. Only here are keys made.
func (step Step) Apply(c Contents, s Settings, now time.Time) (Contents, error) {
	var err error
	switch step.Kind {
	case Found:
		c = Contents{}
		if c.Authority, err = newAuthority(now, s.AuthorityLifetime); err == nil {
			c.Serving, err = c.Authority.issue(now, s.CertificateLifetime, s.Names)
		}
	case Propose:
		c = step.proposed(c, now)
		c.Next, err = newAuthority(now, s.AuthorityLifetime)
	case Mark:
		c.Published = now
	case Unmark:
		c.Published = time.Time{}
	case Promote:
		c, err = c.promoted(s, now)
	case Issue:
		c.Serving, err = c.Authority.issue(now, s.CertificateLifetime, s.Names)
	case Drop:
		c.Former, c.FormerUntil = nil, time.Time{}
	case Wait, Publish: // not about the Secret
	}
	return c, err
}

// proposed keeps an authority and a certificate that are valid.
func (step Step) proposed(c Contents, now time.Time) Contents {
	kept := Contents{Former: step.Trusted, FormerUntil: c.FormerUntil}
	if c.Authority != nil && inTime(c.Authority.Certificate, now) {
		kept.Authority = c.Authority
		kept.Former = slices.DeleteFunc(kept.Former, c.Authority.Certificate.Equal)
	}
	if c.Serving != nil && verify(c.Serving.Leaf, kept.Trusted(), nil, now) == nil {
		kept.Serving = c.Serving
	}
	return kept
}

// promoted: the certificate that has been served until now may be served until it expires.
func (c Contents) promoted(s Settings, now time.Time) (Contents, error) {
	until := now.Add(s.Propagation)
	for _, t := range []time.Time{c.FormerUntil, expiry(c)} {
		if t.After(until) {
			until = t
		}
	}
	if c.Authority != nil {
		c.Former = valid(append([]*x509.Certificate{c.Authority.Certificate}, c.Former...), now)
	}
	c.Authority, c.Next, c.Published, c.FormerUntil = c.Next, nil, time.Time{}, until
	serving, err := c.Authority.issue(now, s.CertificateLifetime, s.Names)
	c.Serving = serving
	return c, err
}

func expiry(c Contents) time.Time {
	if c.Serving == nil {
		return time.Time{}
	}
	return c.Serving.Leaf.NotAfter
}

// verify returns an error if a client that trusts these authorities refuses the certificate
// for one of the names.
func verify(leaf *x509.Certificate, trusted []*x509.Certificate, names []string, now time.Time) error {
	pool := x509.NewCertPool()
	for _, certificate := range trusted {
		pool.AddCert(certificate)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now}); err != nil {
		return err
	}
	for _, name := range names {
		if err := leaf.VerifyHostname(bracketed(name)); err != nil {
			return err
		}
	}
	return nil
}
