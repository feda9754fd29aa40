package turn

import (
	"time"

	coordination "k8s.io/api/coordination/v1"
)

// maxDuration bounds what a Lease that others have written can claim.
const maxDuration = 10 * time.Minute

// sight is a Lease as this process has seen it.
type sight struct {
	version string    // of the object
	since   time.Time // it has had this version for at least so long
}

// look returns the sight of a Lease, given the one before.
func look(before sight, lease *coordination.Lease, now time.Time) sight {
	if before.version == lease.ResourceVersion {
		return before
	}
	return sight{version: lease.ResourceVersion, since: now}
}

// holder returns who holds a Lease at a time, and an empty string if it is free.
func holder(lease *coordination.Lease, seen sight, now time.Time) string {
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return ""
	}
	duration := maxDuration
	if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil && *seconds > 0 {
		duration = min(maxDuration, time.Duration(*seconds)*time.Second)
	}
	if now.Sub(seen.since) >= duration {
		return ""
	}
	return *lease.Spec.HolderIdentity
}
