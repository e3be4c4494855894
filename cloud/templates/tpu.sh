#!/bin/bash
# @{name}: on every host of the slice, as root, at every boot. Trains, and trains on after a stop or a crash.
ended() { echo "$1" >/var/run/imagen_exit_code; } # cloud.launch waits for it, to end the bill
rm -f /var/run/imagen_exit_code
mkdir -p /mnt/imagen
dpkg -s nfs-common >/dev/null 2>&1 || { apt-get update -q && apt-get install -y -q nfs-common; }
for _ in $(seq 30); do mountpoint -q /mnt/imagen || mount -t nfs -o rw,hard @{storage} /mnt/imagen || sleep 10; done
mountpoint -q /mnt/imagen || { ended 2; exit; }
mkdir -p /mnt/imagen/@{workdir} && cd /mnt/imagen || { ended 2; exit; }
gcloud auth configure-docker @{registry} --quiet
for _ in $(seq @{restarts}); do
    docker rm --force imagen >/dev/null 2>&1
    docker run --name=imagen --privileged --net=host --stop-timeout=60 \
        --volume=/mnt/imagen:/mnt/imagen --workdir=/mnt/imagen @{image} \
        @{command} 2>&1 | tee -a @{workdir}/log.txt
    code=${PIPESTATUS[0]}
    case $code in 0 | 2) break ;; esac # done, or a fault of the input; 75 and the rest: again
    sleep 10
done
ended "$code"
