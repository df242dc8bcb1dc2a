-- One request over and over, and what wrk measured of it as a line of JSON.
-- Arguments: method, path, file with the body (or -), framing (length or chunked).

local function read(path)
    local file = assert(io.open(path, "rb"))
    local content = file:read("*a")
    file:close()
    return content
end

function init(args)
    wrk.method, wrk.path = args[1], args[2]
    if args[3] == "-" then
        return
    end
    wrk.headers["Content-Type"] = "application/json"
    local body = read(args[3])
    if args[4] == "chunked" then
        wrk.headers["Transfer-Encoding"] = "chunked"
        local head = wrk.format()
        local pieces = {}
        for start = 1, #body, 8192 do
            local piece = string.sub(body, start, start + 8191)
            table.insert(pieces, string.format("%x\r\n%s\r\n", #piece, piece))
        end
        local request = head .. table.concat(pieces) .. "0\r\n\r\n"
        wrk.format = function() return request end
    else
        wrk.body = body
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"microseconds":%d,"refused":%d,"broken":%d,"p50":%d,"p99":%d,"p999":%d}\n',
        summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
