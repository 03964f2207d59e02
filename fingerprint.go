package skein

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Fingerprint is a short text that is equal for histories which hold the same
// migrations with the same checksums, and so stand the same against any files.
// Batches, times and Knex's lock are not in it. It is empty for a history in
// which something began and did not end: nothing may be concluded there.
func (h History) Fingerprint() string {
	if len(h.KnexOpen) > 0 || slices.ContainsFunc(h.Records, Record.Partial) {
		return ""
	}
	lines := make([]string, len(h.Records))
	for i, r := range h.Records {
		lines[i] = fmt.Sprintf("%q %s\n", r.Name, r.Checksum)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// A FingerprintKeeper is a [Session] that keeps the fingerprint of its tenant's
// history where it can be seen without connecting to the tenant. It writes it
// together with each change of the history by itself, where it has the right to.
type FingerprintKeeper interface {
	// Kept reads what is kept, in one round trip.
	Kept(ctx context.Context) (Kept, error)
	// Keep writes the fingerprint of the history as the session read it with the
	// lock. Where the role may not, it does nothing.
	Keep(ctx context.Context) error
}

// Kept is the fingerprint that is kept for a tenant.
type Kept struct {
	// Fingerprint is empty where there is none for sessions like this one.
	Fingerprint string
	// Needless says that tenants like this one have none: their histories are
	// read together.
	Needless bool
	// Writable says that the session's role may write it.
	Writable bool
}

// A FingerprintState is how the fingerprint that is kept for a tenant compares
// with its history.
type FingerprintState string

// The states of fingerprints.
const (
	FingerprintRight    FingerprintState = "right"
	FingerprintMissing  FingerprintState = "missing"
	FingerprintWrong    FingerprintState = "wrong"
	FingerprintRefused  FingerprintState = "refused"  // the role may not write one, and none counts
	FingerprintNeedless FingerprintState = "needless" // the history itself is read each time
)

func (k Kept) state(history History) FingerprintState {
	switch {
	case k.Needless:
		return FingerprintNeedless
	case !k.Writable:
		return FingerprintRefused
	case k.Fingerprint == history.Fingerprint():
		return FingerprintRight
	case k.Fingerprint == "":
		return FingerprintMissing
	}
	return FingerprintWrong
}

// Verify reads how a tenant stands, compares the fingerprint that is kept for it
// with its history, and with mend brings it into line. The result's Fingerprint
// is what was found.
func (m *Migrator) Verify(ctx context.Context, session Session, tenant Tenant, policy Policy, mend bool) (r Result) {
	r = m.Assess(ctx, session, tenant, policy)
	keeper, ok := session.(FingerprintKeeper)
	if !ok {
		r.Fingerprint = FingerprintNeedless
	}
	if r.Err != nil || !ok {
		return r
	}
	kept, err := keeper.Kept(ctx)
	if r.Err = err; err != nil {
		return r
	}
	if r.Fingerprint = kept.state(r.History); r.Fingerprint != FingerprintMissing && r.Fingerprint != FingerprintWrong {
		return r
	}
	// The two were not read at once, and someone may have been at work.
	if r.History, r.Err = session.Lock(ctx, m.lockWait); r.Err != nil {
		return r
	}
	defer func() {
		if err := session.Unlock(ctx); r.Err == nil {
			r.Err = err
		}
	}()
	if kept, r.Err = keeper.Kept(ctx); r.Err != nil {
		return r
	}
	r.Fingerprint = kept.state(r.History)
	if mend && (r.Fingerprint == FingerprintMissing || r.Fingerprint == FingerprintWrong) {
		r.Err = keeper.Keep(ctx)
	}
	return r
}
