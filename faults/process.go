package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// exitBound is how long a daemon may take to go: lame duck, moved leaders and flushed files on a loaded machine.
const exitBound = 45 * time.Second

// exitKilled is the exit code of a process that SIGKILL ended.
const exitKilled = 128 + int(syscall.SIGKILL)

// exitUnknown is the exit code while the backend has not learnt it: the process is gone, and later probes will know how it went.
const exitUnknown = -1

// process is a fault on daemon processes. Its probe compares the life that Inject saw with the one that is there now, so that an Inject
// that did nothing cannot look in force.
type process struct {
	target
	kind  processKind
	needs []cluster.Capability // nil: CapLifecycle

	mu     sync.Mutex
	tried  bool                             // Inject was called
	before map[cluster.NodeID]cluster.State // of all nodes, seen at Inject; nil before, and where Inject refused
	sent   map[cluster.NodeID]bool          // victims that a signal was sent to
	healed bool
}

// processKind is what tells the process verbs apart.
type processKind struct {
	inject func(ctx context.Context, n cluster.Node, sent func()) error
	heal   func(ctx context.Context, n cluster.Node, before, now cluster.State) error
	probe  func(before, now cluster.State, healed bool) presence
	strays func(before, now cluster.State) bool // an unaffected node shows the fault
	ready  func(before cluster.State) error     // what the victim must be like before
}

// Kill sends SIGKILL. Healing starts the victims again.
func Kill(victims ...cluster.NodeID) Fault {
	return kill(victims, func(ctx context.Context, n cluster.Node, sent func()) error {
		sent()
		return n.Signal(ctx, syscall.SIGKILL) // the probe waits for the end: the backend may need longer to notice it than the kernel
	})
}

// killed is Kill that returns when nothing is left of the process.
func killed(victims []cluster.NodeID) Fault {
	return kill(victims, func(ctx context.Context, n cluster.Node, sent func()) error {
		return end(ctx, n, syscall.SIGKILL, sent)
	})
}

func kill(victims []cluster.NodeID, inject func(context.Context, cluster.Node, func()) error) Fault {
	return &process{target: newTarget("kill", victims), kind: processKind{
		inject: inject,
		heal:   startAgain,
		probe: func(_, now cluster.State, _ bool) presence {
			return down(now, now.ExitCode == exitKilled || now.ExitCode == exitUnknown)
		},
		strays: lostLife, ready: mustRun,
	}}
}

// Stop sends SIGTERM and waits until no process is left. Healing starts the victims again.
func Stop(victims ...cluster.NodeID) Fault {
	return &process{target: newTarget("stop", victims), kind: processKind{
		inject: func(ctx context.Context, n cluster.Node, sent func()) error {
			return end(ctx, n, syscall.SIGTERM, sent)
		},
		heal: startAgain,
		probe: func(_, now cluster.State, _ bool) presence {
			return down(now, now.ExitCode != exitKilled)
		},
		strays: lostLife, ready: mustRun,
	}}
}

// Pause stops the process with SIGSTOP, its sockets open. Healing sends SIGCONT.
func Pause(victims ...cluster.NodeID) Fault {
	return &process{target: newTarget("pause", victims), kind: processKind{
		inject: func(ctx context.Context, n cluster.Node, sent func()) error {
			sent() // before: a call that failed may have stopped it all the same
			return n.Signal(ctx, syscall.SIGSTOP)
		},
		heal: func(ctx context.Context, n cluster.Node, before, now cluster.State) error {
			if !now.Running || !sameLife(before, now) {
				return nil // the paused life has ended: there is nothing to wake up
			}
			if err := n.Signal(ctx, syscall.SIGCONT); !errors.Is(err, cluster.ErrNotRunning) {
				return err
			}
			return nil
		},
		probe: func(before, now cluster.State, _ bool) presence {
			if now.Running && now.Paused && sameLife(before, now) {
				return full
			}
			return none
		},
		strays: func(before, now cluster.State) bool { return now.Paused && !before.Paused },
		ready: func(before cluster.State) error {
			if before.Paused {
				return errors.New("it is paused already")
			}
			return mustRun(before)
		},
	}}
}

// Restart stops the victims with SIGTERM and starts them again: in force once another life runs.
func Restart(victims ...cluster.NodeID) Fault {
	return &process{target: newTarget("restart", victims), kind: processKind{
		inject: func(ctx context.Context, n cluster.Node, sent func()) error {
			if err := end(ctx, n, syscall.SIGTERM, sent); err != nil {
				return err
			}
			return n.Start(ctx)
		},
		heal: startAgain,
		probe: func(before, now cluster.State, healed bool) presence {
			switch {
			case !now.Running:
				return part
			case sameLife(before, now) || healed: // nothing can bring the old life back: healed means that the new one runs
				return none
			default:
				return full
			}
		},
		strays: lostLife, ready: mustRun,
	}}
}

// Needs lists the capabilities that a backend must have.
func (p *process) Needs() []cluster.Capability {
	if p.needs != nil {
		return p.needs
	}
	return []cluster.Capability{cluster.CapLifecycle}
}

// Inject hits all victims at the same time.
func (p *process) Inject(ctx context.Context, c cluster.Cluster) error {
	if err := p.pretend(ctx, c); err != nil {
		return err
	}
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	return each(victims, func(n cluster.Node) error {
		sent := func() { p.mu.Lock(); p.sent[n.ID()] = true; p.mu.Unlock() }
		return nodeError(n.ID(), p.verb, p.kind.inject(ctx, n, sent))
	})
}

// pretend notes what all nodes are like, and refuses victims that the verb can do nothing to.
func (p *process) pretend(ctx context.Context, c cluster.Cluster) error {
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	before, err := states(ctx, c.Nodes())
	p.note(before)
	for _, v := range victims {
		s, ok := before[v.ID()]
		if !ok {
			return fmt.Errorf("%s: %w", p.Name(), err)
		}
		if err := p.kind.ready(s); err != nil {
			p.note(nil) // not touched: Heal has nothing to do
			return nodeError(v.ID(), p.verb, err)
		}
	}
	return nil
}

func (p *process) note(before map[cluster.NodeID]cluster.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried, p.before, p.sent, p.healed = true, before, map[cluster.NodeID]bool{}, false
}

func (p *process) noted() (before map[cluster.NodeID]cluster.State, sent map[cluster.NodeID]bool, healed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.before), maps.Clone(p.sent), p.healed
}

func (p *process) wasTried() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tried
}

// Heal undoes what Inject began, on the victims that it reached.
func (p *process) Heal(ctx context.Context, c cluster.Cluster) error {
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	before, sent, _ := p.noted()
	err = each(victims, func(n cluster.Node) error {
		if !sent[n.ID()] {
			return nil
		}
		now, err := n.State(ctx)
		if err != nil {
			return nodeError(n.ID(), "read state of", err)
		}
		return nodeError(n.ID(), "heal "+p.verb+" of", p.kind.heal(ctx, n, before[n.ID()], now))
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healed = err == nil
	return err
}

// InForce reads each victim's process from the operating system. Before the first Inject it compares what it reads with itself, and a victim that is not what
// the verb needs is an error: whether the fault is absent there cannot be said.
func (p *process) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	victims, err := p.nodes(c)
	if err != nil {
		return Observation{}, err
	}
	now, err := states(ctx, victims)
	if err != nil {
		return Observation{}, err
	}
	before, _, healed := p.noted()
	found := map[cluster.NodeID]finding{}
	for id, s := range now {
		f := finding{detail: describe(s) + ", not injected", figures: figures(s)}
		if b, ok := before[id]; !ok && !p.wasTried() {
			if err := p.kind.ready(s); err != nil {
				return Observation{}, nodeError(id, p.verb, err)
			}
			f.presence = p.kind.probe(s, s, false)
		} else if ok {
			f.presence = p.kind.probe(b, s, healed)
			f.detail = fmt.Sprintf("%s; at the injection it was %s", describe(s), describe(b))
			f.figures["pid_before"], f.figures["start_time_before"] = float64(b.PID), float64(b.StartTime)
		}
		found[id] = f
	}
	return summarize(p.victims, found), nil
}

// Bystander looks at all nodes that are not victims.
func (p *process) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return p.bystanderExcept(ctx, c, p.victims)
}

func (p *process) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	before, _, _ := p.noted()
	others := slices.DeleteFunc(without(c, exclude), func(n cluster.Node) bool { return !before[n.ID()].Running })
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	now, err := states(ctx, others)
	if err != nil {
		return Observation{}, false, err
	}
	var ids []cluster.NodeID
	found := map[cluster.NodeID]finding{}
	stray := false
	for _, n := range others {
		id := n.ID()
		ids = append(ids, id)
		stray = stray || p.kind.strays(before[id], now[id])
		found[id] = finding{detail: describe(now[id]), figures: figures(now[id])}
	}
	o := summarize(ids, found)
	o.InForce, o.Partial = stray, false
	return o, true, nil
}

// end sends a signal that ends the daemon and waits until it is gone.
func end(ctx context.Context, n cluster.Node, sig syscall.Signal, sent func()) error {
	sent() // before: a call that failed may have reached the process all the same
	if err := n.Signal(ctx, sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, exitBound)
	defer cancel()
	if err := n.WaitExit(ctx); err != nil {
		return fmt.Errorf("wait for the exit after %v: %w", sig, err)
	}
	return nil
}

// startAgain starts a node that was told to end. One that is still at it would go away later, when nobody expects it any more: it is
// ended first.
func startAgain(ctx context.Context, n cluster.Node, before, now cluster.State) error {
	if now.Running && !sameLife(before, now) {
		return nil
	}
	if now.Running {
		if err := n.Signal(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			return err
		}
	}
	bound, cancel := context.WithTimeout(ctx, exitBound)
	defer cancel()
	if err := n.WaitExit(bound); err != nil {
		return fmt.Errorf("wait for the exit: %w", err)
	}
	if err := n.Start(ctx); !errors.Is(err, cluster.ErrRunning) {
		return err
	}
	return nil
}

func mustRun(before cluster.State) error {
	if !before.Running {
		return cluster.ErrNotRunning
	}
	return nil
}

func sameLife(a, b cluster.State) bool { return a.PID == b.PID && a.StartTime == b.StartTime }

func lostLife(before, now cluster.State) bool { return !now.Running || !sameLife(before, now) }

// down tells full from part by the way in which the process ended.
func down(now cluster.State, rightWay bool) presence {
	switch {
	case now.Running:
		return none
	case rightWay:
		return full
	default:
		return part
	}
}

func describe(s cluster.State) string {
	switch {
	case !s.Running && s.ExitCode == exitUnknown:
		return "not running (exit code not known)"
	case !s.Running && s.OOMKilled:
		return fmt.Sprintf("killed by the kernel for want of memory (exit code %d)", s.ExitCode)
	case !s.Running:
		return fmt.Sprintf("not running (exit code %d)", s.ExitCode)
	case s.Paused:
		return fmt.Sprintf("paused (process %d, started at tick %d)", s.PID, s.StartTime)
	default:
		return fmt.Sprintf("running (process %d, started at tick %d)", s.PID, s.StartTime)
	}
}

func figures(s cluster.State) map[string]float64 {
	return map[string]float64{
		"running": oneIf(s.Running), "oom_killed": oneIf(s.OOMKilled), "paused": oneIf(s.Paused), "pid": float64(s.PID),
		"start_time": float64(s.StartTime), "exit_code": float64(s.ExitCode),
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
