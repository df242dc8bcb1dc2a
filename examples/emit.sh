#!/usr/bin/env bash
# Issues one NF-e through the sidecar with curl, and does the right thing about every outcome: emit.sh BASE_URL NUMBER
# The fields are those that the fake Invoisys reads; take the real ones from Invoisys's documentation.
set -euo pipefail

[[ ${2-} =~ ^[0-9]{1,9}$ ]] || { echo "usage: ${0##*/} BASE_URL NUMBER" >&2 && exit 2; }
base=$1 number=$((10#$2)) # 08 is eight, and no octal
timeout=${TIMEOUT:-240}   # seconds; longer than the sidecar's own, or its answer is lost
pause=${PAUSE:-5}         # seconds between two queries
attempts=2                # to send, before contingency
queries=6                 # shortened: an ERP asks for at least 5 minutes before it may send again
undecided=' 103 104 105 106 204 217 ' # of the batch alone, there already, not there: ask for the document
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

access_key() { # UF YYMM CNPJ MODEL SERIES NUMBER CODE
    local body value total=0 weight=2 place
    printf -v body '%s%s%s%s%03d%09d1%s' "$@" # 1: normal emission
    for ((place = ${#body} - 1; place >= 0; place--)); do
        printf -v value %d "'${body:place:1}" # letters of a CNPJ count by their place in ASCII, as digits do
        total=$((total + (value - 48) * weight)) weight=$((weight == 9 ? 2 : weight + 1))
    done
    echo "$body$(((11 - total % 11) % 11 % 10))"
}

random_code() { # eight digits, not all the same, not counting up, not the number itself: those are rejected, with 897
    local code=00000000
    while [[ ! ${code//${code:0:1}/} || 01234567890123456 == *$code* ]] || ((10#$code == number)); do
        printf -v code %08d $(($(od -An -N4 -tu4 /dev/urandom) % 100000000))
    done
    echo "$code"
}

field() { # of the answer's head, in any case
    sed -n "s/^$1: *\([^[:cntrl:]]*\).*/\1/Ip" "$work/head"
}

send() { # METHOD PATH [DOCUMENT]; sets outcome, status, verdict (SEFAZ's, if any) and wait
    local failed=0 options=(--silent --noproxy '*' --request "$1" --connect-timeout 5 --max-time "$timeout")
    if (($# > 2)); then options+=(--header 'Content-Type: application/json' --data-binary "$3"); fi
    if [[ ${CALLER_TOKEN-} ]]; then # where the listener wants one; by a file, since everybody sees a command line
        echo "Authorization: Bearer $CALLER_TOKEN" >"$work/token" && options+=(--header "@$work/token")
    fi
    : >"$work/head" >"$work/body"
    status=$(curl "${options[@]}" --dump-header "$work/head" --output "$work/body" --write-out '%{http_code}' "$base$2") ||
        failed=$?
    outcome=$(field X-Invoisys-Outcome) wait=$(field Retry-After) verdict=
    if ((failed == 6 || failed == 7)); then # the sidecar is not there: nothing was sent, to anybody
        outcome=not-sent status=0
    elif ((failed)); then # no answer, or not all of it
        outcome=unknown status=0
    else
        verdict=$(sed -n 's/.*"codigoStatusSEFAZ" *: *"\{0,1\}0*\([0-9]*\).*/\1/p' "$work/body")
        if [[ ! $outcome && $undecided != *" $verdict "* && ($verdict || $status == 4?? && $status != 429) ]]; then
            outcome=answered
        fi
    fi
    outcome=${outcome:-unknown}
    if [[ ! $wait =~ ^[0-9]+$ ]]; then wait=$pause; fi
}

told() {
    if [[ $verdict == 100 || $verdict == 150 ]]; then echo "issued $key"; else echo "rejected $verdict"; fi
}

settle() { # never send again what may have been sent: ask for it
    local query
    for ((query = 1; query <= queries; query++)); do
        send GET "/api/nfe/getbychaveSTD/$key"
        if [[ $outcome == answered && $verdict ]]; then told && return; fi
        if ((query < queries)); then sleep "$pause"; fi
    done
    echo "pending $key" # go on asking later; the next sale takes the next number
}

issue() {
    local attempt
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        send POST /api/nfe/envio "$document"
        if [[ $outcome == unknown ]]; then settle && return; fi
        if [[ $verdict ]]; then told && return; fi
        if [[ $status == 4?? ]]; then echo "refused $status" && return; fi # the request itself has to change
        if ((attempt < attempts)); then sleep "$wait"; fi
    done
    echo contingency # Invoisys knows nothing of the number: it is still free
}

code=$(random_code)
now=$(date +%Y-%m-%dT%H:%M:%S%:z) # local time, with its offset
document='{"cnpj":"12345678000195","modelo":"55","serie":1,"numero":'$number',"codigoAleatorioNF":"'$code'",'
document+='"dataEmissao":"'$now'"}'
key=$(access_key 35 "${now:2:2}${now:5:2}" 12345678000195 55 1 "$number" "$code")
# Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
issue
