package scenarios

import (
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
)

// Mutant is a bug that is planted in a build of membershipd, with the scenario and the claims that must catch it: the harness's own test.
type Mutant struct {
	Name     string `json:"name"`     // of package sut/membershipd/internal/mutant
	Mistake  string `json:"mistake"`  // what the build does wrong
	Scenario string `json:"scenario"` // of All
	// Signs are the claims that must fail, each for one of the named reasons. One of them is enough; another failure is not.
	Signs []Sign `json:"signs"`
}

// Judge recognizes the bug in a proof about the build that has it.
func (m Mutant) Judge(p reports.Proof) Finding { return Bug{Signs: m.Signs}.Judge(p) }

// wrongRegister are the ways in which a history of reads and writes shows that it has no order.
var wrongRegister = []string{check.CodeNotLinear, check.CodeCASViolation, check.CodeRevReused, check.CodeRevOrder}

// Mutants lists the planted bugs, in the order of their names.
func Mutants() []Mutant {
	sign := func(claim string, codes ...string) Sign { return Sign{Claim: claim, Codes: codes} }
	access := []Sign{sign("as-the-rules-say", check.CodeForbidden, check.CodeWronglyRefused), sign("the-whole-matrix", check.CodeForbidden, check.CodeWronglyRefused)}
	return []Mutant{
		{"acks-before-majority", "the settings API answers as soon as the write is on its way, with the revision that it will probably get", "node-kill",
			[]Sign{sign("control-linearizable", wrongRegister...), sign("control-durable", check.CodeAckedMissing, check.CodeWrongValue)}},
		{"audit-skipped", "a node starts on its store as it is, and says that it looked", damagedFlip,
			[]Sign{sign("stream-intact", check.CodeAckedMissing), sign("copies-agree", check.CodeReplicasDiffer)}},
		{"bootstrap-gives-up", "a node looks once for the buckets, and does not try again if it could not create them then", "node-kill", []Sign{sign("converged", check.CodeNotConverged, check.CodeUnderRepl)}},
		{"bootstrap-recreates", "a bucket that cannot be seen for the moment is deleted and created again", "node-kill",
			[]Sign{sign("control-durable", check.CodeAckedMissing, check.CodeWrongValue), sign("control-linearizable", wrongRegister...)}},
		{"buckets-at-r1", "the buckets have one replica", "node-kill", []Sign{sign("converged", check.CodeNotConverged, check.CodeUnderRepl)}},
		{"cas-ignored", "a conditional write of a setting is done without looking at the condition", "node-kill", []Sign{sign("control-linearizable", wrongRegister...)}},
		{"disk-keeps-disabled", "a node's copy of the users on its disk does not learn who was disabled", "auth-cold-start",
			[]Sign{sign("alone-logins-1", check.CodeForbidden), sign("alone-logins-2", check.CodeForbidden), sign("alone-logins-3", check.CodeForbidden)}},
		{"foreign-identity", "a node runs on the data directory of another node", foreignData, []Sign{sign("refuses-to-run", check.CodeReadyNoQuorum)}},
		{"forgotten-kept", "a node whose clock was wrong starts with its copies as they are, once its clock is right", clockRunningName,
			[]Sign{sign("kept", check.CodeOutOfBounds), sign("copies-agree", check.CodeReplicasDiffer)}},
		{"healthz-cached", "/healthz repeats for a minute what was true", "lone-node-leader", []Sign{sign("never-ready-alone", check.CodeReadyNoQuorum)}},
		{"healthz-process", "/healthz is 200 whenever the process runs", "lone-node-leader", []Sign{sign("never-ready-alone", check.CodeReadyNoQuorum)}},
		{"index-lost-on-reconnect", "a node's index of users counts changes as seen, and does not take them over, once its feed was interrupted", "user-add",
			[]Sign{sign("users-intact", check.CodeAckedMissing, check.CodeTwoOwners, check.CodeWrongValue, check.CodeWronglyRefused, check.CodeForbidden)}},
		{"lame-duck-drops", "a node that is to stop diverts what its clients publish, and nobody reads it", gracefulName,
			[]Sign{sign("core-delivered-n1", check.CodeSkipped), sign("core-delivered-n2", check.CodeSkipped), sign("core-delivered-n3", check.CodeSkipped)}},
		{"resources-not-asked", "a node to which a route is new is not asked for its resources, and tells them when it would have anyway", placementName, placedSigns()},
		{"rights-at-login-only", "what a user may do is looked up at login and never again", "acl", access},
		{"room-revoke-open", "who is taken out of a room keeps what the open connection was given", "acl", access},
		{"seed-twice", "the seed file is imported at every start, over what is there", seedImport, []Sign{sign("imported-once", check.CodeNotSame)}},
		{"success-before-confirmed", "the users API answers before the write is confirmed", "user-add",
			[]Sign{sign("users-intact", check.CodeAckedMissing, check.CodeTwoOwners, check.CodeHalfWritten, check.CodeNotIdempotent, check.CodeWronglyRefused),
				sign("no-ack-lost", check.CodeAckedNoQuorum)}},
		{"sync-not-always", "writes are synced every ten seconds, while the node says always", "power-failure",
			[]Sign{sign("stream-intact", check.CodeAckedMissing), sign("control-durable", check.CodeAckedMissing, check.CodeWrongValue), sign("control-linearizable", wrongRegister...),
				sign("converged", check.CodeNotConverged)}}, // a stream's own description is lost too, and such a node stays out
		{"watcher-skips", "a node's index misses one change in eight", "user-add",
			[]Sign{sign("users-intact", check.CodeAckedMissing, check.CodeWronglyRefused, check.CodeTwoOwners, check.CodeHalfWritten, check.CodeNotIdempotent)}},
	}
}

// SelectMutants picks planted bugs by name, comma separated; "" picks all.
func SelectMutants(all []Mutant, words string) ([]Mutant, error) {
	if strings.TrimSpace(words) == "" {
		return all, nil
	}
	var picked []Mutant
	for _, w := range strings.Split(words, ",") {
		w = strings.TrimSpace(w)
		i := slices.IndexFunc(all, func(m Mutant) bool { return m.Name == w })
		if i < 0 {
			var names []string
			for _, m := range all {
				names = append(names, m.Name)
			}
			return nil, fmt.Errorf("no planted bug is called %q; there are: %s", w, strings.Join(names, ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}
