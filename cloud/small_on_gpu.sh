#!/usr/bin/env bash
# All of :small on one accelerator: four trainings, the comparisons, the fine-tuning, every evaluation.
#
#   python -m data_pipelines.prepare emoji --output=data/emoji           # once, where there is internet
#   python -m data_pipelines.prepare furniture --output=data/furniture
#   cloud/small_on_gpu.sh                                                # again and again, until it says: all done
#
# A call works MINUTES (default 9), saves and ends with exit code 75; the next one goes on where it stopped. Settings by
# environment: SIZE (small), MINUTES (9), PYTHON (python), COUNT (cases a suite), EXTRA (flags for every training, to try
# it out: EXTRA=--config.train.steps=20), RUNS (folder of the runs: runs, with EXTRA runs_try, so that no trial is taken
# for the real one). Training and evaluation need no TensorFlow.
set -euo pipefail
cd "$(dirname "$0")/.."
SIZE=${SIZE:-small} MINUTES=${MINUTES:-9} PYTHON=${PYTHON:-python} EXTRA=${EXTRA:-} COUNT=${COUNT:-64}
RUNS=${RUNS:-runs${EXTRA:+_try}}
DEADLINE=$((SECONDS + MINUTES * 60))

run() { # run FILE COMMAND...: unless FILE tells that it is finished; stopped softly when the time is up
    local finished=$1 left=$((DEADLINE - SECONDS)) code=0
    shift
    [ -e "$finished" ] && return
    if [ "$left" -gt 60 ]; then
        echo "== $*"
        timeout --preserve-status --signal=TERM --kill-after=40 "$((left - 45))" "$@" || code=$?
        [ "$code" -eq 0 ] && return
        [ "$SECONDS" -lt $((DEADLINE - 50)) ] && exit "$code" # nobody stopped it: it failed
    fi
    echo "time is up: call $0 again"
    exit 75
}

train() { # train NAME EXPERIMENT [NAME of the run to start from [FLAG]]
    local flags="${3:+--config.init_from=$RUNS/$3_$SIZE} ${4:-} $EXTRA"
    # shellcheck disable=SC2086
    run "$RUNS/$1/report.json" "$PYTHON" -m imagen_jax.main --config="experiments/$2" --workdir="$RUNS/$1" $flags
}

steps() { # steps EXPERIMENT: of its training
    "$PYTHON" -c "from experiments import $1; print($1.STEPS['$SIZE'])"
}

measure() { # measure NAME EXPERIMENT
    run "$RUNS/$1/eval/report.json" "$PYTHON" -m imagen_jax.main --config="experiments/$2" --workdir="$RUNS/$1" \
        --mode=eval --config.eval.count="$COUNT"
}

train "pretrain_$SIZE" "pretrain.py:$SIZE"
train "stage1_$SIZE" "stage1.py:$SIZE" pretrain
train "stage2_$SIZE" "stage2.py:$SIZE" stage1
train "super_res_$SIZE" "super_res.py:$SIZE" stage2
measure "stage2_$SIZE" "stage2.py:$SIZE"

# As many steps as the other start has, of what it had before, on new examples: so that arms differ in kind alone.
train "pretrain_longer_$SIZE" "pretrain.py:$SIZE" pretrain "--config.train.steps=$(steps stage1) --config.seed=1"
train "stage1_longer_$SIZE" "stage1.py:$SIZE" stage1 "--config.train.steps=$(steps ablation) --config.seed=1"
ARMS="full no_stage1 no_instructions"
for arm in $ARMS; do # Tables 3 and 4
    before=stage1
    [ "$arm" = no_stage1 ] && before=pretrain_longer
    train "ablation_${arm}_$SIZE" "ablation.py:$arm,$SIZE" "$before"
    measure "ablation_${arm}_$SIZE" "ablation.py:$arm,$SIZE"
done
SINGLE="only_line only_style_transfer"
for arm in $SINGLE; do # Table 4; of one task each, so measured by its held-out loss
    train "ablation_${arm}_$SIZE" "ablation.py:$arm,$SIZE" stage1
done
train "ablation_no_edit_$SIZE" "ablation.py:no_edit,$SIZE" stage1
for start in ablation_no_edit stage1_longer; do # Table 2
    train "edit_from_${start}_$SIZE" "edit.py:$SIZE" "$start"
    measure "edit_from_${start}_$SIZE" "edit.py:$SIZE"
done

compare() { # compare OUTPUT RUN...
    local output=$1
    shift
    "$PYTHON" -m imagen_jax.evaluation.compare "${@/%/_$SIZE}" --output="$output"
}
compare "$RUNS/ablation_$SIZE.md" $(printf "$RUNS/ablation_%s " $ARMS)
compare "$RUNS/single_$SIZE.md" "$RUNS/ablation_full" $(printf "$RUNS/ablation_%s " $SINGLE)
compare "$RUNS/edit_$SIZE.md" "$RUNS/edit_from_ablation_no_edit" "$RUNS/edit_from_stage1_longer"
echo "all done: $RUNS/stage2_$SIZE/eval/report.html, $RUNS/{ablation,single,edit}_$SIZE.md"
