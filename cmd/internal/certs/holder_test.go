package certs

import (
	"maps"
	"strings"
	"testing"
	"time"
)

// A replica serves the last certificate that it could, and is ready while that is valid.
func TestHolder(t *testing.T) {
	h := &Holder{}
	if _, err := h.Get(nil); err == nil || h.Valid(start) == nil {
		t.Error("there is a certificate before the Secret is read")
	}
	c := apply(t, Contents{}, nil, start, Found)
	data, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string) {
		t.Helper()
		if got, err := h.Get(nil); err != nil || !got.Leaf.Equal(c.Serving.Leaf) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := apply(t, Contents{}, nil, start, Found)
	foreign, err := other.Data()
	if err != nil {
		t.Fatal(err)
	}
	unusable := map[string]map[string][]byte{
		"no Secret": nil, "another key": {keyPrivate: foreign[keyPrivate]}, "foreign": {keyCertificate: foreign[keyCertificate], keyPrivate: foreign[keyPrivate]},
		"other authorities": {keyTrusted: foreign[keyTrusted]}, "broken authorities": {keyTrusted: []byte("x")}, "empty": {keyCertificate: nil, keyPrivate: nil},
	}
	with := func(change map[string][]byte) map[string][]byte {
		if change == nil {
			return nil
		}
		changed := maps.Clone(data)
		maps.Copy(changed, change)
		return changed
	}
	for name, change := range unusable {
		h.Take(with(change), start)
		if _, err := h.Get(nil); err == nil {
			t.Errorf("%s is served", name)
		}
	}
	if h.Take(data, start.Add(7*time.Hour)); h.Valid(start) == nil {
		t.Error("an expired certificate is taken")
	}
	h.Take(data, start)
	want("taken")
	for name, change := range unusable {
		h.Take(with(change), start)
		want(name)
	}
	if err := h.Valid(start); err != nil {
		t.Error(err)
	}
	if err := h.Valid(start.Add(7 * time.Hour)); err == nil || !strings.Contains(err.Error(), "valid from") {
		t.Errorf("ready with an expired certificate: %v", err)
	}
	renewed := c
	if renewed.Serving, err = c.Authority.issue(start, time.Hour, settings.Names); err != nil {
		t.Fatal(err)
	}
	c = renewed
	if data, err = c.Data(); err != nil {
		t.Fatal(err)
	}
	h.Take(data, start)
	want("renewed")
}
