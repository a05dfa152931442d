package membershipd

import (
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The control-plane buckets, as other packages and `nats kv` name them.
const (
	BucketUsers    = "UNIBUS_users"
	BucketRoles    = "UNIBUS_roles"
	BucketRooms    = "UNIBUS_rooms"
	BucketMembers  = "UNIBUS_members"
	BucketNodes    = "UNIBUS_nodes"
	BucketSettings = "UNIBUS_settings"
	// AuditStream holds a record of every change.
	AuditStream = "UNIBUS_AUDIT"
)

const (
	auditPrefix   = "unibus.audit." // then the bucket without its prefix: records of its changes
	auditSubjects = auditPrefix + ">"
	// fenceSettings shares the settings' Raft group, but is no key of the bucket: what is written there proves that the group has a quorum.
	fenceSettings = "unibus.fence.settings"

	auditMaxBytes    = 64 << 20
	dedupeWindow     = 2 * time.Minute
	nodeRecordMaxAge = time.Hour // after which a node that is gone is forgotten
	maxValue         = 64 << 10
)

// bucketSpec is what distinguishes one bucket from another.
type bucketSpec struct {
	name     string
	history  int64
	maxBytes int64 // reserved on every node that holds a replica
	maxAge   time.Duration
	extra    []string // subjects beside the keys
}

var bucketSpecs = []bucketSpec{
	{name: BucketUsers, history: 8, maxBytes: 96 << 20},
	{name: BucketRoles, history: 16, maxBytes: 8 << 20},
	{name: BucketRooms, history: 8, maxBytes: 32 << 20},
	{name: BucketMembers, history: 8, maxBytes: 96 << 20},
	{name: BucketNodes, history: 2, maxBytes: 8 << 20, maxAge: nodeRecordMaxAge},
	{name: BucketSettings, history: 16, maxBytes: 16 << 20, extra: []string{fenceSettings}},
}

// historyOf is how many revisions of a key a bucket keeps.
func historyOf(bucket string) int {
	i := slices.IndexFunc(bucketSpecs, func(b bucketSpec) bool { return b.name == bucket })
	return int(bucketSpecs[i].history)
}

// auditedBuckets are those whose changes people ask for. Nodes refresh their own records all the time.
var auditedBuckets = []string{BucketSettings, BucketUsers, BucketRoles, BucketRooms, BucketMembers}

func auditSubject(bucket string) string { return auditPrefix + strings.TrimPrefix(bucket, "UNIBUS_") }

func bucketStream(bucket string) string { return "KV_" + bucket }
func keySubject(bucket, key string) string {
	return "$KV." + bucket + "." + key
}

// asset is a stream of the control plane, in the form that the bootstrap loop and the health evaluator work on.
type asset struct {
	label  string // as shown to people
	stream string
	audit  bool
	config func(replicas int) jetstream.StreamConfig
}

func assets() []asset {
	var all []asset
	for _, b := range bucketSpecs {
		all = append(all, asset{label: b.name, stream: bucketStream(b.name), config: b.streamConfig})
	}
	return append(all, asset{label: AuditStream, stream: AuditStream, audit: true, config: auditConfig})
}

// reserved is how many bytes the control plane keeps for itself on each node.
func reserved() (bytes int64) {
	for _, a := range assets() {
		bytes += a.config(1).MaxBytes
	}
	return bytes
}

// streamConfig is that of a key-value bucket, except for two things. Reads go to the stream's leader (direct gets may be answered
// by a follower that is behind), and roll-ups are refused (the header `Nats-Rollup: all` on any one key would erase the bucket).
func (b bucketSpec) streamConfig(replicas int) jetstream.StreamConfig {
	window := dedupeWindow
	if b.maxAge > 0 {
		window = min(window, b.maxAge)
	}
	return jetstream.StreamConfig{
		Name:              bucketStream(b.name),
		Description:       "unibus control plane",
		Subjects:          append([]string{keySubject(b.name, ">")}, b.extra...),
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: b.history,
		MaxBytes:          b.maxBytes,
		MaxAge:            b.maxAge,
		MaxMsgSize:        maxValue,
		MaxMsgs:           -1,
		MaxConsumers:      -1,
		Duplicates:        window,
		DenyDelete:        true,
		AllowRollup:       false,
		AllowDirect:       false,
	}
}

func auditConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:         AuditStream,
		Description:  "unibus audit trail",
		Subjects:     []string{auditSubjects},
		Retention:    jetstream.LimitsPolicy,
		Discard:      jetstream.DiscardOld,
		Storage:      jetstream.FileStorage,
		Replicas:     replicas,
		MaxBytes:     auditMaxBytes,
		MaxMsgSize:   maxValue,
		MaxMsgs:      -1,
		MaxConsumers: -1,
		Duplicates:   dedupeWindow,
		DenyDelete:   true,
		DenyPurge:    true,
		AllowDirect:  false,
	}
}
