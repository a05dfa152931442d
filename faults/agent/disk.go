package agent

// ReadParams asks for a piece of a file in the data directory, whether the daemon runs or not.
type ReadParams struct {
	Path   string `json:"path"` // relative, with slashes
	Offset int64  `json:"offset"`
	Bytes  int    `json:"bytes"` // 1 to 32768
}

// DiskProbeParams says where in the data directory to write, sync and read a file, whether the daemon runs or not.
type DiskProbeParams struct {
	Under string `json:"under"` // a directory, relative, with slashes; "" for the data directory itself
}
