// Package turn lets a few installers at a time change their nodes. A turn is one of N Leases (coordination.k8s.io); who
// holds one renews it until it gives it back. A Lease that its holder has not renewed for its duration is free.
//
//	turns := turn.New(client.Leases(namespace), turn.Config{Count: 1, Identity: node, Duration: time.Minute})
//	got, err := turns.Try(ctx)
//	defer turns.Release(ctx)
//	if got && turns.Held() { … }
//
// The clocks of two nodes may differ, so the times in a Lease are never compared with the clock: a Lease is old if this
// process has seen it unchanged for as long as its duration, as in client-go's leader election.
package turn
