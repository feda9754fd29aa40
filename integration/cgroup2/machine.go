package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// machine is made of files: a kernel with the initial file system that finds the disks, and the disks, Debian's and the tests'.
type machine struct{ kernel, initrd, debian, tests string }

// bootLimit bounds a life of the machine. All tests take about an hour on two idle processors.
const bootLimit = 5 * time.Hour

// boot runs the machine until it switches itself off. Nothing that it writes to its disks stays, and they can be removed as soon
// as it says something. KVM would need a machine that has it; the emulator runs everywhere, and is what the numbers in the docs are of.
func (m machine) boot(ctx context.Context, console io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the machine still runs after %s", bootLimit))
	defer cancel()
	disk := func(path string) string { return "if=virtio,format=raw,snapshot=on,cache=unsafe,file=" + path }
	qemu := command(ctx, "qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "4096",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot", "-kernel", m.kernel, "-initrd", m.initrd,
		"-drive", disk(m.debian), "-drive", disk(m.tests),
		"-append", "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off tsc=reliable clocksource=tsc systemd.unit=tests.target systemd.show_status=0")
	qemu.Stdout, qemu.Stderr = console, console
	if err := qemu.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("the machine: %w", err)
	}
	return nil
}
