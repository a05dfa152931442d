package scenarios

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	"github.com/unibus/unibus/sut/pki"
)

// Settings of the rotation of certificates.
const (
	rotateWithin    = 10 // seconds from the files to the listener; unasked, the daemon wants to see the files the same in two looks, a second apart
	rotateGap       = 10 // seconds; bound for the longest stretch without an acked publish to the orders while nothing is restarted
	rotateRollGap   = 30 // the same while each node is restarted
	rotateStranded  = 10 // seconds
	rotateOps       = 60 // between two rounds
	reportWithin    = 10 * time.Second
	reconnectWithin = 10 * time.Second
	rotatePrefix    = "rotated-"
)

// Listeners of a node, each with a certificate and authorities of its own.
var listeners = []string{"clients", "routes"}

// certRotation replaces all certificates and both authorities under load. Between two rounds every client dials again; at the end every node is restarted,
// so that no route is left that was made with what was replaced.
func certRotation() Scenario {
	k := &rotation{}
	return Scenario{
		Name: "cert-rotation", Family: "cert-rotation", Seconds: 75,
		Doc:   "every certificate of both listeners replaced under load by SIGHUP and by changing the files, then both authorities; damaged and expired ones offered in between",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			*k = rotation{}
			steps := []Step{startAll(), converge("first start"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin),
				{"see what every node shows", k.begin}, mark("rotate"), {"ask a node to read again what did not change", k.skip}}
			for _, r := range rotationRounds(p) {
				steps = append(steps, k.round(r)...)
				if r.name == "bundle" {
					steps = append(steps, Step{"ask with certificates of the old authorities", k.tryOld("old-early")})
				}
			}
			steps = append(steps, Step{"ask with certificates of the old authorities", k.tryOld("old-late")}, Step{"ask with certificates of the new authorities", k.tryNew})
			if p.Kind == cluster.Membershipd {
				for _, b := range brokenKinds {
					steps = append(steps, Step{"offer " + b.name, k.offer(b)})
				}
			}
			steps = append(steps, mark("rotated"))
			for _, id := range others() {
				steps = append(steps, Step{"restart " + string(id), func(ctx context.Context, r *Run) error { return r.restartAs(ctx, id, false) }}, converge("after the restart of "+string(id)))
			}
			return append(steps, Step{"see what every node shows", k.atEnd}, moreOps(opsBetween, opsWithin), mark("restarted"), stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim { return rotationClaims(r) },
	}
}

// rotationRound is new files for every node.
type rotationRound struct {
	name    string
	hup     bool // nodes are told; otherwise they have to notice
	leaves  bool // new certificates; otherwise those of the round before stay
	signer  int  // 0 for the old authorities, 1 for the new ones
	trusted []int
}

// rotationRounds keep to the order in which no node ever shows what another does not trust. nats-server does not look at its files unless it is told.
func rotationRounds(p *Plan) []rotationRound {
	told := p.Kind != cluster.Membershipd
	return []rotationRound{
		{"leaves-told", true, true, 0, []int{0}},
		{"leaves-unasked", told, true, 0, []int{0}},
		{"bundle", true, false, 0, []int{0, 1}},
		{"switch", told, true, 1, []int{0, 1}},
		{"drop", true, true, 1, []int{1}},
	}
}

// rotation is the certificates of one run: what was there, what is wanted, and what signs.
type rotation struct {
	authorities map[string][2]*pki.Authority // by listener: old and new
	files       map[cluster.NodeID]map[string][]byte
	wanted      map[cluster.NodeID]map[string]string // serials by listener
	trusted     []int                                // which authorities everybody believes at the moment
}

// begin makes the authorities that come later, and reads the serials that nodes show at first.
func (k *rotation) begin(ctx context.Context, r *Run) error {
	secured, ok := r.Cluster.(cluster.Secured)
	if !ok || len(secured.Trust().Client.Cert) == 0 {
		return errors.New("the cluster is in plain text")
	}
	trust := secured.Trust()
	*k = rotation{authorities: map[string][2]*pki.Authority{}, files: map[cluster.NodeID]map[string][]byte{}, wanted: map[cluster.NodeID]map[string]string{}, trusted: []int{0}}
	for listener, old := range map[string]cluster.Authority{"clients": trust.Client, "routes": trust.Route} {
		before, err := pki.ParseAuthority(old.Cert, old.Key)
		if err != nil {
			return err
		}
		after, err := pki.NewAuthority(pki.AuthorityRequest{Name: "unibus " + r.Scenario.Name + " " + listener + " second"})
		if err != nil {
			return err
		}
		k.authorities[listener] = [2]*pki.Authority{before, after}
	}
	for _, n := range r.Cluster.Nodes() {
		k.files[n.ID()], k.wanted[n.ID()] = map[string][]byte{}, map[string]string{}
		for _, l := range listeners {
			serial, err := k.shown(ctx, n, l)
			if err != nil {
				return fmt.Errorf("%w: %w", errGiveUp, err)
			}
			k.wanted[n.ID()][l] = serial
		}
	}
	return nil
}

// shown shakes hands and returns the serial number of the certificate. It believes what everybody believes at the moment, and shows a node's
// certificate to a route.
func (k *rotation) shown(ctx context.Context, n cluster.Node, listener string) (string, error) {
	c, err := k.ask(ctx, n, listener, k.trusted, k.trusted[len(k.trusted)-1])
	if err != nil {
		return "", err
	}
	return c.SerialNumber.Text(16), nil
}

// ask shakes hands as one that believes those authorities and, with a route, shows a certificate of the signer.
func (k *rotation) ask(ctx context.Context, n cluster.Node, listener string, trusted []int, signer int) (*x509.Certificate, error) {
	roots, err := pki.Pool(k.bundle(listener, trusted))
	if err != nil {
		return nil, err
	}
	if listener == "clients" {
		return observe.ClientCertificate(ctx, n, roots)
	}
	own, err := k.authorities[listener][signer].Issue(pki.Request{Name: "probe", Hosts: []string{"localhost"}, Usage: pki.Both})
	if err != nil {
		return nil, err
	}
	pair, err := own.TLS()
	if err != nil {
		return nil, err
	}
	return observe.RouteCertificate(ctx, n, pair, roots)
}

func (k *rotation) bundle(listener string, which []int) []byte {
	var all []*pki.Authority
	for _, i := range which {
		all = append(all, k.authorities[listener][i])
	}
	return pki.Bundle(all...)
}

// fileNames are the certificate, key and authorities of a listener.
func fileNames(listener string) (cert, key, ca string) {
	if listener == "clients" {
		return cluster.FileClientCert, cluster.FileClientKey, cluster.FileClientCA
	}
	return cluster.FileRouteCert, cluster.FileRouteKey, cluster.FileRouteCA
}

// leaf makes a certificate for a node, and returns its serial number.
func (k *rotation) leaf(n cluster.Node, listener string, signer int, life time.Duration) (pki.Pair, string, error) {
	usage := pki.Server
	if listener == "routes" {
		usage = pki.Both
	}
	hosts, err := certifiedHosts(n)
	if err != nil {
		return pki.Pair{}, "", err
	}
	pair, err := k.authorities[listener][signer].Issue(pki.Request{Name: string(n.ID()), Hosts: hosts, Usage: usage, Lifetime: life})
	if err != nil {
		return pki.Pair{}, "", err
	}
	certs, err := pki.Parse(pair.Cert)
	if err != nil {
		return pki.Pair{}, "", err
	}
	return pair, certs[0].SerialNumber.Text(16), nil
}

func certifiedHosts(n cluster.Node) ([]string, error) {
	k, ok := n.(cluster.Rekeyed)
	if !ok {
		return nil, fmt.Errorf("the certificates of %s cannot be replaced", n.ID())
	}
	return k.Hosts(), nil
}

// round gives every node new files, one node after the other, and then makes every client dial again.
func (k *rotation) round(rr rotationRound) []Step {
	return []Step{
		mark(rr.name),
		{"new files: " + rr.name, func(ctx context.Context, r *Run) error {
			k.trusted = rr.trusted
			k.believe(r, rr.trusted, rr.signer)
			for _, n := range r.Cluster.Nodes() {
				if err := k.renew(ctx, r, n, rr); err != nil {
					return err
				}
			}
			return nil
		}},
		mark(rr.name + "-done"),
		{"every client dials again: " + rr.name, func(ctx context.Context, r *Run) error { return reconnectAll(ctx, r, rr.name) }},
		moreOps(rotateOps, opsWithin),
	}
}

// believe tells the harness's clients what to trust from their next connection on.
func (k *rotation) believe(r *Run, trusted []int, signer int) {
	secured := r.Cluster.(cluster.Secured) // begin has looked
	trust := secured.Trust()
	trust.Believed = k.bundle("clients", trusted)
	for listener, a := range map[string]*cluster.Authority{"clients": &trust.Client, "routes": &trust.Route} {
		if key, err := k.authorities[listener][signer].KeyPEM(); err == nil {
			*a = cluster.Authority{Cert: k.authorities[listener][signer].PEM(), Key: key}
		}
	}
	secured.SetTrust(trust)
}

// renew gives one node its files of a round, and waits until both listeners show what is in them.
func (k *rotation) renew(ctx context.Context, r *Run, n cluster.Node, rr rotationRound) error {
	id, before := n.ID(), maps.Clone(k.wanted[n.ID()])
	for _, l := range listeners {
		cert, key, ca := fileNames(l)
		k.files[id][ca] = k.bundle(l, rr.trusted)
		if !rr.leaves {
			continue
		}
		pair, serial, err := k.leaf(n, l, rr.signer, 0)
		if err != nil {
			return err
		}
		k.files[id][cert], k.files[id][key], k.wanted[id][l] = pair.Cert, pair.Key, serial
	}
	if err := put(ctx, n, k.files[id], rr.hup); err != nil {
		return err
	}
	return k.await(ctx, r, n, rr, before)
}

// put replaces files of a node, and sends SIGHUP if it is to be told.
func put(ctx context.Context, n cluster.Node, files map[string][]byte, hup bool) error {
	re, ok := n.(cluster.Rekeyed)
	if !ok {
		return fmt.Errorf("the certificates of %s cannot be replaced", n.ID())
	}
	if err := re.PutSecrets(ctx, files); err != nil {
		return err
	}
	if !hup {
		return nil
	}
	if err := n.Signal(ctx, syscall.SIGHUP); err != nil {
		return fmt.Errorf("tell %s: %w", n.ID(), err)
	}
	return nil
}

// await asks both listeners until they show what they should, and records what they show in the end. Authorities show themselves in whom a node
// accepts: a probe with a certificate of the newest of them is let in.
func (k *rotation) await(ctx context.Context, r *Run, n cluster.Node, rr rotationRound, before map[string]string) error {
	began := time.Now()
	for _, l := range listeners {
		var is string
		var last error
		wctx, cancel := context.WithTimeout(ctx, 2*rotateWithin*time.Second)
		err := r.until(wctx, 2*rotateWithin*time.Second, "certificate", func(ctx context.Context) bool {
			is, last = k.shown(ctx, n, l)
			return last == nil && is == k.wanted[n.ID()][l]
		})
		cancel()
		if ctx.Err() != nil {
			return err
		}
		if last != nil {
			is = last.Error()
		}
		name := rotatePrefix + rr.name
		if !rr.leaves {
			name = "kept-" + rr.name
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{string(n.ID())}, Detail: l, Data: map[string]any{
			"before": before[l], "wanted": k.wanted[n.ID()][l], "shown": is, "seconds": time.Since(began).Seconds()}})
	}
	return nil
}

// skip is the control: a node is told to read its files again, and they are the old ones.
func (k *rotation) skip(ctx context.Context, r *Run) error {
	n := r.Cluster.Nodes()[r.Plan.Rand.IntN(len(r.Cluster.Nodes()))]
	if err := n.Signal(ctx, syscall.SIGHUP); err != nil {
		return fmt.Errorf("tell %s: %w", n.ID(), err)
	}
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	for _, l := range listeners {
		_, serial, err := k.leaf(n, l, 0, 0) // nobody is given it
		if err != nil {
			return err
		}
		is, err := k.shown(ctx, n, l)
		if err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "skipped", Nodes: []string{string(n.ID())}, Detail: l, Data: map[string]any{
			"before": k.wanted[n.ID()][l], "wanted": serial, "shown": is}})
	}
	return k.reported(ctx, r, n, "clients", "unbroken", k.wanted[n.ID()]["clients"], false)
}

// reconnectAll makes every client dial again, and records who is back.
func reconnectAll(ctx context.Context, r *Run, name string) error {
	began := time.Now()
	wctx, cancel := context.WithTimeout(ctx, reconnectWithin)
	defer cancel()
	asked, stranded, err := r.Env.Reconnect(wctx)
	if err != nil {
		return err
	}
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "reconnected-" + name, Detail: fmt.Sprint(stranded), Data: map[string]any{
		"clients": float64(asked), "stranded": float64(len(stranded)), "seconds": time.Since(began).Seconds()}})
	return ctx.Err()
}

// tryOld asks every listener as one that has nothing but the old authorities: a client believes nobody else, a node shows a certificate of theirs.
func (k *rotation) tryOld(name string) func(ctx context.Context, r *Run) error {
	return func(ctx context.Context, r *Run) error {
		for _, n := range r.Cluster.Nodes() {
			k.try(ctx, r, n, name, "clients", []int{0}, 0)
			k.try(ctx, r, n, name, "routes", k.trusted, 0)
		}
		return ctx.Err()
	}
}

// tryNew asks as one that has nothing but the new ones: who is refused before was refused for its authority.
func (k *rotation) tryNew(ctx context.Context, r *Run) error {
	for _, n := range r.Cluster.Nodes() {
		for _, l := range listeners {
			k.try(ctx, r, n, "new-late", l, []int{1}, 1)
		}
	}
	return ctx.Err()
}

func (k *rotation) try(ctx context.Context, r *Run, n cluster.Node, name, listener string, trusted []int, signer int) {
	_, err := k.ask(ctx, n, listener, trusted, signer)
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{string(n.ID())}, Detail: listener + ": " + errText(err), Data: map[string]any{"accepted": flag(err == nil)}})
}

// broken is a set of files that must not be put in force.
type broken struct {
	name, listener string
	damage         func(k *rotation, n cluster.Node, files map[string][]byte) error
}

// brokenKinds are offered one after the other.
var brokenKinds = []broken{
	{"a key that is not the certificate's", "clients", func(k *rotation, n cluster.Node, files map[string][]byte) error {
		pair, _, err := k.leaf(n, "clients", 1, 0)
		files[cluster.FileClientCert] = pair.Cert
		return err
	}},
	{"a certificate that has expired", "routes", func(k *rotation, n cluster.Node, files map[string][]byte) error {
		pair, _, err := k.leaf(n, "routes", 1, -time.Hour)
		files[cluster.FileRouteCert], files[cluster.FileRouteKey] = pair.Cert, pair.Key
		return err
	}},
	{"a certificate of the authority that was dropped", "routes", func(k *rotation, n cluster.Node, files map[string][]byte) error {
		pair, _, err := k.leaf(n, "routes", 0, 0)
		files[cluster.FileRouteCert], files[cluster.FileRouteKey] = pair.Cert, pair.Key
		return err
	}},
	{"half a certificate", "clients", func(_ *rotation, _ cluster.Node, files map[string][]byte) error {
		files[cluster.FileClientCert] = files[cluster.FileClientCert][:len(files[cluster.FileClientCert])/2]
		return nil
	}},
	{"authorities of clients for routes", "routes", func(k *rotation, _ cluster.Node, files map[string][]byte) error {
		files[cluster.FileRouteCA] = append(slices.Clone(files[cluster.FileRouteCA]), k.bundle("clients", []int{1})...)
		return nil
	}},
}

// offer gives a node files that it must not use, looks that it says so and shows what it showed before, and puts the good ones back.
func (k *rotation) offer(b broken) func(ctx context.Context, r *Run) error {
	return func(ctx context.Context, r *Run) error {
		n := r.Cluster.Nodes()[r.Plan.Rand.IntN(len(r.Cluster.Nodes()))]
		files := maps.Clone(k.files[n.ID()])
		if err := b.damage(k, n, files); err != nil {
			return err
		}
		if err := put(ctx, n, files, r.Plan.Rand.IntN(2) == 0); err != nil {
			return err
		}
		if err := k.reported(ctx, r, n, b.listener, "broken", k.wanted[n.ID()][b.listener], true); err != nil {
			return err
		}
		if err := put(ctx, n, k.files[n.ID()], true); err != nil {
			return err
		}
		return r.until(ctx, reportWithin, "end of the report of "+b.name, func(ctx context.Context) bool {
			said, err := tlsError(ctx, n, b.listener)
			return err == nil && said == ""
		})
	}
}

// reported records whether a node says that the files of a listener cannot be used, and what the listener shows. It waits for that word if it is expected.
func (k *rotation) reported(ctx context.Context, r *Run, n cluster.Node, listener, name, before string, expected bool) error {
	if n.Endpoints().Status == "" {
		return nil // plain nats-server has nobody to say it
	}
	var said string
	var last error
	if err := r.until(ctx, reportWithin, "report", func(ctx context.Context) bool {
		said, last = tlsError(ctx, n, listener)
		return last == nil && (said != "" || !expected)
	}); err != nil && !errors.Is(err, errGiveUp) {
		return err
	}
	is, err := k.shown(ctx, n, listener)
	if err != nil {
		is = err.Error()
	}
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{string(n.ID())}, Detail: fmt.Sprintf("%s: %s%s", listener, said, errText(last)),
		Data: map[string]any{"reported": flag(said != ""), "before": before, "shown": is}})
	return nil
}

// tlsError is why a node does not use what is in the files of a listener; "" if it does.
func tlsError(ctx context.Context, n cluster.Node, listener string) (string, error) {
	var status struct {
		TLS map[string]struct {
			ReloadError string `json:"reload_error"`
		} `json:"tls"`
	}
	if err := askJSON(ctx, n.Endpoints().Status, &status); err != nil {
		return "", err
	}
	l, ok := status.TLS[listener]
	if !ok {
		return "", fmt.Errorf("%s says nothing of the listener of %s (status %d)", n.ID(), listener, http.StatusOK)
	}
	return l.ReloadError, nil
}

// atEnd looks that after a restart every node still shows the newest certificates.
func (k *rotation) atEnd(ctx context.Context, r *Run) error {
	for _, n := range r.Cluster.Nodes() {
		if err := k.await(ctx, r, n, rotationRound{name: "restarted"}, k.wanted[n.ID()]); err != nil {
			return err
		}
	}
	return nil
}

func rotationClaims(r *Run) []reports.Claim {
	rounds := rotationRounds(r.Plan)
	news := 0
	for _, rr := range rounds {
		if rr.leaves {
			news++
		}
	}
	each := len(listeners) * 3
	shown, changed := [][2]string{{"shown", "wanted"}}, [][2]string{{"shown", "before"}}
	cs := []reports.Claim{
		claim("rotated", fmt.Sprintf("In each round every node shows the new certificate to clients and to other nodes, within %d s of the files.", rotateWithin),
			check.Measured{Names: []string{rotatePrefix}, Min: news * each, Nodes: 3, Same: shown, Differ: changed, Bounds: []check.Bound{check.AtMost("seconds", rotateWithin)}}),
		control("skipped-rotation", "A node shows a new certificate. (Must fail: it was told to read its files again, and nobody had replaced them.)", check.CodeStillSame,
			check.Measured{Names: []string{"skipped"}, Same: shown, Differ: changed}),
		claim("kept", "With more authorities, and after a restart, every node shows the certificate that it was given last.",
			check.Measured{Names: []string{"kept-"}, Min: 2 * each, Nodes: 3, Same: shown}),
		claim("old-authority-refused", "In the end certificates of the old authorities are accepted by no listener of routes, and nothing that clients are shown is signed by the old one.",
			check.Measured{Names: []string{"old-late"}, Min: each, Nodes: 3, Bounds: []check.Bound{check.Exactly("accepted", 0)}}),
		claim("new-authority-accepted", "Certificates of the new authorities are accepted everywhere, by those that believe nothing else.",
			check.Measured{Names: []string{"new-late"}, Min: each, Nodes: 3, Bounds: []check.Bound{check.Exactly("accepted", 1)}}),
		control("old-authority-early", "Certificates of the old authorities are accepted by nobody. (Must fail: this was asked while both were in force.)", check.CodeOutOfBounds,
			check.Measured{Names: []string{"old-early"}, Min: each, Bounds: []check.Bound{check.Exactly("accepted", 0)}}),
		claim("clients-come-back", fmt.Sprintf("After each round every client dials again, and is back within %v.", reconnectWithin),
			check.Measured{Names: []string{"reconnected-"}, Min: len(rounds), Needs: []check.Bound{check.AtLeast("clients", publishers)}, Bounds: []check.Bound{check.Exactly("stranded", 0)}}),
		streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...),
		claim("write-gap", fmt.Sprintf("Writes go on while certificates and authorities are replaced: the longest stretch without an acked publish to the orders stays under %d s.", rotateGap),
			check.Availability{Window: window("rotate", "rotated"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: rotateGap, MinOK: 100}),
		claim("write-gap-restarts", fmt.Sprintf("The same while every node is restarted, and all routes are made anew: under %d s.", rotateRollGap),
			check.Availability{Window: window("rotated", "restarted"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: rotateRollGap, MinOK: 50}),
		claim("no-client-stranded", "Every publisher and key-value client is served again.",
			check.ClientGaps{Window: window("rotate", "restarted"), MinClients: publishers, EndSeconds: rotateStranded}),
		truthful(),
		exercised(check.Preconditions{MinOps: 800, Marks: []string{"rotate", "rotated", "restarted"}, Drained: drained(r)}),
	}
	for _, rr := range rounds {
		cs = append(cs, claim("connections-kept-"+rr.name, "No client loses its connection while nodes take new files.",
			check.Connections{Window: window(rr.name, rr.name+"-done"), MinClients: publishers}))
	}
	if r.Plan.Kind == cluster.Membershipd {
		cs = append(cs,
			claim("broken-refused", "Files that cannot be used (a key of another certificate, an expired one, one of an authority that was dropped, half a certificate, the clients' authority for routes) "+
				"are not put in force: the node says so and shows what it showed before.",
				check.Measured{Names: []string{"broken"}, Min: len(brokenKinds), Same: [][2]string{{"shown", "before"}}, Bounds: []check.Bound{check.Exactly("reported", 1)}}),
			control("good-files-reported", "A node says that its files cannot be used. (Must fail: these can.)", check.CodeOutOfBounds,
				check.Measured{Names: []string{"unbroken"}, Bounds: []check.Bound{check.Exactly("reported", 1)}}))
	}
	return append(cs, settingsIntact(r)...)
}
