//go:build tools

// Package containerd pins containerd's own client tests, the runc that some of them ask for, which delays or kills what
// it starts, and containerd's stress test. hack/test-stock runs them.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd-stress"
	_ "github.com/containerd/containerd/v2/integration/client"
	_ "github.com/containerd/containerd/v2/integration/failpoint/cmd/runc-fp"
)
