package scenarios

import (
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenario about conditional publishes.
const (
	appendFirst   = 8 * time.Second // in which clients get in each other's way
	appendLater   = 12 * time.Second
	appendClients = 3
	appendRate    = 10 // a second and client
)

// appendStops: whether a stream ends with a message id is looked at by every replica when it applies the message, and a refusal there is taken for a store that cannot
// be written: all replicas give the stream up, until their servers are started again.
func appendStops() Bug {
	bySequence := appendScenario(trackPrefix+"expected-id-control", 0)
	return Bug{
		ID: "expected-id", Title: "one refused Nats-Expected-Last-Msg-Id stops a replicated stream, on all replicas", Source: "found with this harness",
		Bad: []string{"v2.15.2"}, Clean: []string{"v2.12.1"},
		Signs:    []Sign{{"appends-go-on", []string{check.CodeUnavailable}}},
		Control:  &bySequence,
		Scenario: appendScenario(trackPrefix+"expected-id", 1), ControlWord: "Nats-Expected-Last-Sequence instead",
	}
}

func appendScenario(name string, byID float64) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 40,
		Doc:   "clients publish to an R3 stream on the condition that it still ends as they saw it, without any fault: some are refused, and publishing goes on",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			load := &workload.Appends{Target: ledgerStream, Replicas: 3, Clients: appendClients, Rate: appendRate, ByID: byID, Timeout: opTimeout}
			return []Step{startApart(), converge("first start"), loadUp(load), hold("no fault at all", appendFirst), mark("later"), hold("still none", appendLater), mark("end"),
				pauseLoad(), drainResting(askWithin)}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				claim("appends-go-on", "Conditional publishes are acked to the end: those that are refused do not keep others from being taken.",
					check.Availability{Window: window("later", "end"), Kinds: []string{"append"}, Targets: []string{ledgerStream}, MinOK: 10}),
				exercised(check.Preconditions{MinOps: 30}),
			}
		},
	}
}
