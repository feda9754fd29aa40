// Package shimtest has what the tests of shim and of its internal packages share: a
// fake runc service, a fake publisher of events, and what they log.
package shimtest
