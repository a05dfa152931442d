package docker

import (
	"maps"

	"github.com/moby/moby/client"

	"github.com/unibus/unibus/sut/cluster"
)

// What package docker/hosts shares: the connection to the engine, the labels by which Sweep finds what nobody wants any more, and the words for errors.

// API is the connection to the engine.
func (b *Backend) API() *client.Client { return b.cli.Client }

// Labels are those of one thing of one cluster; node may be "".
func (b *Backend) Labels(spec cluster.Spec, node cluster.NodeID, role string) map[string]string {
	m := maps.Clone(b.owner.labels())
	m[labelRun], m[labelCluster], m[labelRole] = spec.RunID, spec.Name, role
	if node != "" {
		m[labelNode] = string(node)
	}
	return m
}

// ProjectLabel is on everything, images included.
const ProjectLabel = labelProject

// Explain puts a sentence before an engine's error where there is one.
func Explain(err error) error { return explain(err) }

// Gone tells whether what was to be removed is not there any more.
func Gone(err error) bool { return gone(err) }

// Reachable tells whether a container's own address answers from here: on some systems only published ports do.
var Reachable = reachable
