package scenarios

import (
	"time"

	"github.com/unibus/unibus/scenarios/workload"
)

// The standard load: enough to catch a loss, little enough that two cores are not the thing that is tested.
const (
	publishers  = 6   // two whose home is each node
	publishRate = 10  // a second, each
	payload     = 256 // bytes
	opTimeout   = 2 * time.Second
	kvClients   = 3
	kvKeys      = 5
	kvRate      = 15 // a second, each
	controlKeys = 3
	controlRate = 5
	coreRate    = 10
	pullAckWait = 5 * time.Second // a message that went down with its consumer comes again after this long
	repeatShare = 0.1             // of acked messages are published again, through another node
	followers   = 2               // ordered consumers, and as many watchers
	planeEach   = 3               // clients of each sort, where all sorts are looked at
	jobRate     = 2               // a second and publisher
	ledgerRate  = 3               // conditional publishes a second and client
)

// streamLoad is publishers on the orders stream.
func streamLoad() *workload.Streams {
	return &workload.Streams{Target: ordersStream, Subjects: []string{"orders.>"}, Replicas: 3, Publishers: publishers, Rate: publishRate, PayloadBytes: payload,
		Timeout: opTimeout}
}

// kvLoad is writers, compare-and-setters and leader readers on the data bucket.
func kvLoad() *workload.KV {
	return &workload.KV{Target: ordersBucket, Replicas: 3, Clients: kvClients, Keys: kvKeys, Rate: kvRate, Timeout: opTimeout}
}

// controlLoad is the same through membershipd's control API.
func controlLoad() *workload.Control {
	return &workload.Control{Clients: 3, Keys: controlKeys, Rate: controlRate}
}

// writeLoad only writes: in an outage of the control plane itself a read takes as long as its timeout, and a client has one operation at a time.
func writeLoad() *workload.Control {
	return &workload.Control{Clients: 3, Keys: controlKeys, Rate: controlRate, Mix: workload.Mix{Put: 1}}
}

// standardLoad is a little of everything that the subject has: writers, those who follow what is written, a work queue, conditional publishes.
func standardLoad(p *Plan) []workload.Workload {
	orders := streamLoad()
	orders.Repeat = repeatShare
	return append(basicLoad(p, orders),
		&workload.OrderedConsumer{Target: ordersStream, Clients: followers, Heartbeat: time.Second},
		&workload.Watcher{Target: ordersBucket, Clients: followers, Heartbeat: time.Second},
		&workload.WorkQueue{Target: jobsStream, Publishers: 3, Rate: jobRate, Workers: 3, Replicas: 3, AckWait: pullAckWait, Timeout: opTimeout},
		&workload.Appends{Target: ledgerStream, Replicas: 3, Clients: 3, Rate: ledgerRate, Timeout: opTimeout},
		&workload.Described{Streams: []string{ordersStream, bucketStream, jobsStream, ledgerStream}},
	)
}

// basicLoad is the writers alone: where nobody judges the rest, or clocks are moved, by which a stream tells how long it remembers a message id.
func basicLoad(p *Plan, orders *workload.Streams) []workload.Workload {
	ws := []workload.Workload{orders, kvLoad()}
	if p.Kind == membershipd {
		ws = append(ws, controlLoad())
	}
	return ws
}

// dataplaneLoad is clients of every sort, spread over the nodes.
func dataplaneLoad() []workload.Workload {
	return []workload.Workload{
		streamLoad(), kvLoad(),
		ackers(),
		&workload.OrderedConsumer{Target: ordersStream, Clients: planeEach, Heartbeat: time.Second},
		&workload.Watcher{Target: ordersBucket, Clients: planeEach, Heartbeat: time.Second},
		&workload.Subscribers{Subject: coreSubject, Clients: planeEach},
		&workload.Senders{Subject: coreSubject, Clients: planeEach, Rate: coreRate, Timeout: opTimeout},
		&workload.Responders{Subject: askSubject, Queue: "answer", Clients: planeEach},
		&workload.Requesters{Subject: askSubject, Clients: planeEach, Rate: coreRate, Timeout: time.Second},
	}
}
