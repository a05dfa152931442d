package workload

// Sign gives tests a client of their own with the workload's identity.
func Sign(i Identity) func([]byte) ([]byte, error) { return i.sign }
