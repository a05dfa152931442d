package faults

import "github.com/unibus/unibus/sut/cluster"

// Fooled makes the probe of a fault one that always sees it, where the fault has one that compares with what Inject saw. It tells whether it has.
func Fooled(f Fault) bool {
	switch f := f.(type) {
	case *process:
		f.kind.probe = func(cluster.State, cluster.State, bool) presence { return full }
	case *powerFailure:
		f.probe = func(powered, powered) presence { return full }
	case *wipe:
		f.probe = func(cluster.Usage, cluster.Usage, bool) presence { return full }
	case *group:
		for _, p := range f.parts {
			if !Fooled(p) {
				return false
			}
		}
	default:
		return false
	}
	return true
}
