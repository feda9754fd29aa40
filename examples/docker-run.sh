#!/bin/sh
# The Kubernetes page's example under docker. nginx's image stops with SIGQUIT, so the block names that signal.
set -eu

docker run --detach --name web --runtime io.containerd.lifecycle.v2 --annotation 'lifecycle-shim.io/lifecycle=
postStart:
  exec:
    command: ["/bin/sh", "-c", "echo Hello from the postStart handler > /usr/share/message"]
preStop:
  exec:
    command: ["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]
stopSignal: SIGQUIT
' nginx
docker exec web cat /usr/share/message
docker stop web
docker rm web
