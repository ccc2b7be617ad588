"""Whether a site will work, before it joins."""
