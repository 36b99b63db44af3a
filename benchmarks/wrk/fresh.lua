-- Every request has a target that there was never before, so that the server remembers nothing of it.
local thread_count = 0

function setup(thread)
  thread_count = thread_count + 1
  thread:set("serial", thread_count)
end

function init()
  count = 0
end

function request()
  count = count + 1
  return wrk.format("GET", wrk.path .. "?" .. serial .. "-" .. count)
end
