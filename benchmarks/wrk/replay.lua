-- Sends the requests of a file, one after the other and from the start again, and reports as JSON.
--
--     wrk -s replay.lua URL -- REQUESTS [PAUSE_MS [FIRST [SERIAL]]]
--
-- REQUESTS: a line with the count, then for each request a line with its length and the bytes themselves. All is made
-- beforehand (workloads.py), so that a request costs wrk no more than an index into a table, or nothing if there is but
-- one; every server gets the very same sequence, and there is one place that knows HTTP. wrk itself counts the heads in
-- a request, for pipelining.
--
-- PAUSE_MS: each connection rests so long, on average, before its next request. None keeps the server full.
-- FIRST: how many requests are passed over at the start, so that rounds do not all begin with the same.
-- SERIAL: the first of the numbers that stand in place of `__serial__`, of ten digits as that is. Each request has the
-- next one, so that it never repeats. A request is cut at those places beforehand: to join it takes wrk less than 1 us.

local PLACE = "__serial__"
local requests = {}
local count = 0
local serial = 0
local position = 0
local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

-- The pieces of a request between the places of its number.
local function cut(text)
  local pieces, start = {}, 1
  while true do
    local first, last = text:find(PLACE, start, true)
    pieces[#pieces + 1] = text:sub(start, (first or 0) - 1)
    if not first then return pieces end
    start = last + 1
  end
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  count = file:read("*n")
  for index = 1, count do
    local length = file:read("*n")
    file:read(1)
    requests[index] = file:read(length)
    assert(#requests[index] == length, "the file of requests is cut off")
  end
  file:close()
  local pause_ms = tonumber(arguments[2] or "0")
  if pause_ms > 0 then
    -- Of random length, or the connections would soon ask all at once. The generator of random numbers starts the same
    -- each time.
    function delay() return math.random(1, 2 * pause_ms - 1) end
  end
  position = tonumber(arguments[3] or "0")
  if requests[1]:find(PLACE, 1, true) then
    serial = tonumber(arguments[4] or "0")
    for index = 1, count do requests[index] = cut(requests[index]) end
    request = numbered
  elseif count == 1 then
    -- Without a function to call, wrk sends what `wrk.format` says over and over, and gets 4 % further.
    request = nil
    wrk.format = function() return requests[1] end
  end
  -- A global, because only those can be read from the other state, in which `done` runs.
  cpu_at_start = os.clock()
end

function request()
  position = position % count + 1
  return requests[position]
end

function numbered()
  position = position % count + 1
  serial = serial + 1
  return table.concat(requests[position], string.format("%010d", serial))
end

function done(summary, latency, _)
  local errors = summary.errors
  local report = string.format(
    '{"requests": %d, "seconds": %.6f, "bytes": %.0f, "cpu_s": %.6f, '
      .. '"p50_us": %d, "p99_us": %d, "max_us": %d, '
      .. '"errors": {"connect": %d, "read": %d, "write": %d, "status of 400 or more": %d, "timeout": %d}}',
    summary.requests, summary.duration / 1e6, summary.bytes, os.clock() - threads[1]:get("cpu_at_start"),
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  )
  print("REPORT " .. report)
end
