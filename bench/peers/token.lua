-- The token of one worker: at most one login at a time, however many requests wait for it.
local semaphore = require "ngx.semaphore"

local _M = {}

local token, expires = nil, 0
local flight -- the login under way: a semaphore, and how many wait at it

local function log_in()
    ngx.req.read_body()
    local answer = ngx.location.capture("/login", {
        method = ngx.HTTP_POST,
        body = '{"username":"bench","password":"bench"}',
    })
    if answer.status ~= 200 then
        return nil, 0
    end
    local given = string.match(answer.body, '"access_token":"([^"]+)"')
    local lifetime = tonumber(string.match(answer.body, '"expires_in":(%d+)'))
    return given, ngx.now() + 0.8 * (lifetime or 3600)
end

-- The current token, or the one that the login under way brings; ends the request where there is none.
function _M.current()
    if not token or ngx.now() >= expires then
        if flight then
            flight.waiting = flight.waiting + 1
            flight.semaphore:wait(15)
        else
            local mine = { semaphore = semaphore.new(0), waiting = 0 }
            flight = mine
            token, expires = log_in()
            flight = nil
            if mine.waiting > 0 then
                mine.semaphore:post(mine.waiting)
            end
        end
    end
    return token or ngx.exit(503)
end

-- Another token than the one that was answered with a 401.
function _M.renew(rejected)
    if token == rejected then
        token = nil
    end
    return _M.current()
end

return _M
